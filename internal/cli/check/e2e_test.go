package check

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/cli"
	"pyhook/internal/cli/clitest"
	"pyhook/internal/testutil"
)

// checked runs `pyhook check --json` and parses what it prints. checkText gives the text that the
// command prints of it without --json.
func checked(t *testing.T, want int, args ...string) *checkReport {
	t.Helper()
	r := clitest.Command(t, nil, append([]string{"check", "--json"}, args...)...)
	require.Equal(t, want, r.Code, "%s%s", r.Stdout, r.Stderr)
	report := clitest.Parse[checkReport](t, r.Stdout)
	assert.Equal(t, want == cli.ExitOK, report.OK)
	return &report
}

func TestCheckAllreduce(t *testing.T) {
	r := checked(t, cli.ExitOK, "allreduce", "--max-error", "1e-6")
	assert.Equal(t, "torch.distributed.algorithms.ddp_comm_hooks.default_hooks.allreduce_hook", r.HookName)
	require.Len(t, r.Buckets, 3)
	elements := 0.0
	for _, b := range r.Buckets {
		assert.True(t, b.Valid && b.Alike && b.OwnMemory)
		assert.Positive(t, b.MedianSeconds)
		elements += float64(b.Elements)
	}
	require.NotNil(t, r.BytesLast)
	// Both ranks send each bucket once, and gloo's headers.
	assert.InDelta(t, 2*4*elements, float64(*r.BytesLast), 4096+0.1*8*elements)
	assert.InDelta(t, 3*2*4*elements, float64(*r.BytesTotal), 3*(4096+0.1*8*elements))
}

func TestCheckIsTheSameForTheSameSeed(t *testing.T) {
	a := shared(t, cli.ExitOK, "go:allreduce", "--sizes", "100", "--steps", "1")
	b := shared(t, cli.ExitOK, "allreduce", "--sizes", "100", "--steps", "1")
	c := shared(t, cli.ExitOK, "allreduce", "--sizes", "100", "--steps", "1", "--seed", "2")
	assert.Equal(t, a.Buckets[0].ErrorWorst, b.Buckets[0].ErrorWorst)
	assert.NotEqual(t, b.Buckets[0].ErrorWorst, c.Buckets[0].ErrorWorst)
}

func TestCheckFP16GoesByWhatGlooTakes(t *testing.T) {
	doctor := clitest.Parse[struct {
		Backends map[string]struct {
			Tried  bool
			DTypes map[string]string
		}
	}](t, clitest.Command(t, nil, "doctor", "--json").Stdout)
	require.True(t, doctor.Backends["gloo"].Tried)
	if doctor.Backends["gloo"].DTypes["float16"] != "" {
		r := checked(t, cli.ExitFailed, "fp16")
		assert.NotNil(t, r.Failure)
		return
	}
	full := shared(t, cli.ExitOK, "allreduce", "--sizes", "100000")
	half := shared(t, cli.ExitOK, "fp16", "--sizes", "100000")
	assert.InDelta(t, 0.5, float64(*half.BytesLast)/float64(*full.BytesLast), 0.02, "the wire tells")
	assert.Less(t, half.Buckets[0].ErrorWorst.Max, 2e-3)
	assert.Greater(t, half.Buckets[0].ErrorWorst.Max, 1e-5)
}

func TestCheckPowerSGDCompressesFromTheThirdStep(t *testing.T) {
	r := checked(t, cli.ExitOK, "powersgd", "-n", "3", "--steps", "4", "--sizes", "300x200;100x100,50;64x3x3x3")
	assert.Equal(t, "powersgd", r.State)
	assert.Equal(t, []string{"start_powerSGD_iter=2"}, r.Args)
	first := r.Buckets[0]
	assert.Less(t, *r.BytesLast, uint64(80_000), "rank 1 of 300x200: 500 numbers and not 60,000")
	assert.Greater(t, *r.BytesTotal, uint64(2*2*240_000), "the first two steps are full")
	assert.Greater(t, first.ErrorLast.RMS, 0.1, "random gradients have no low rank")
	given := shared(t, cli.ExitOK, "powersgd", "--state", "powersgd", "--state-arg", "start_powerSGD_iter=5", "--state-arg", "matrix_approximation_rank=2")
	assert.Less(t, given.Buckets[0].ErrorWorst.Max, 1e-6, "not compressed yet")
}

func TestCheckNoopDiffers(t *testing.T) {
	r := shared(t, cli.ExitFailed, "noop")
	assert.False(t, r.Buckets[0].Alike)
	assert.Zero(t, *r.BytesLast)
	assert.Contains(t, r.Problems[0], "ranks differ")
	assert.Contains(t, r.Hint, "does not communicate")
	assert.True(t, checked(t, cli.ExitOK, "noop", "-n", "1").OK, "one rank is alike")
}

func TestCheckOldStyleHook(t *testing.T) {
	r := shared(t, cli.ExitOK, "old_style.py:mean")
	assert.Equal(t, []string{"[tensor] result", "get_tensor"}, r.Legacy)
	assert.Contains(t, checkText(r), "old-style hook: torch 1.7 to 1.9 names: [tensor] result, get_tensor: works here, not on current PyTorch")
}

func TestCheckStateOfAFile(t *testing.T) {
	r := shared(t, cli.ExitOK, "hooks.py:scaled", "--state", "hooks.py:Scale", "--state-arg", "factor=2", "--state-arg", `names=["a"]`)
	assert.InDelta(t, 1, r.Buckets[0].ErrorWorst.RMS, 1e-6, "twice the mean is off by the mean")
	assert.False(t, r.Buckets[0].OwnMemory)
	shared(t, cli.ExitFailed, "hooks.py:scaled", "--state", "hooks.py:Scale", "--state-arg", "factor=2", "--max-error", "0.5")
}

func TestCheckHooksThatAreMade(t *testing.T) {
	for name, args := range map[string][]string{
		"a factory with keyword arguments": {`made.py:make(factor=0.5, name="mean")`},
		"an object with attach(ddp)":       {`made.py:Stats(names=["a"])`},
		"a class that takes the model":     {"made.py:InConstructor(ddp)"},
		"inside a wrapper":                 {"made.py:through(made.py:Stats(), times=1)"},
		"with the parameters":              {"made.py:by_id", "--state", "made.py:ById"},
		"with the parameters, in brackets": {"made.py:by_id", "--state", "made.py:ById(parameters=parameters)"},
		"a class of another file":          {"made.py:wants_its_own", "--state", "made_state.py:make"},
	} {
		t.Run(name, func(t *testing.T) {
			r := shared(t, cli.ExitOK, append(args, "--max-error", "1e-5", "--sizes", "30;20,7x3", "--steps", "2", "--rebuild=false")...)
			assert.True(t, strings.HasPrefix(r.HookName, "made.py:"), r.HookName)
		})
	}
	r := shared(t, cli.ExitFailed, "made.py:make(factor=", "--steps", "1", "--sizes", "3")
	assert.Equal(t, "load", r.Failure.Code)
	r = shared(t, cli.ExitFailed, "allreduce", "--state", "powersgd", "--state-arg", "matrix_approximation_rank=1.5", "--steps", "1", "--sizes", "3")
	assert.Contains(t, r.Failure.Message, "matrix_approximation_rank=1.5 is not a whole number")
}

func TestCheckResultOfAnotherDType(t *testing.T) {
	r := shared(t, cli.ExitOK, "hooks.py:half", "--dtype", "float64")
	assert.Equal(t, "bfloat16", r.Buckets[0].ResultDType)
}

func TestCheckBrokenHooks(t *testing.T) {
	for hook, want := range map[string]struct {
		code, message, traceback string
		exit                     int
	}{
		"hooks.py:raises":          {"hook_raised", "ValueError: boom in the hook", "in raises", cli.ExitFailed},
		"hooks.py:rank_one_raises": {"hook_raised", "rank 1, bucket 1: the hook raised an exception: KeyError: 'only rank one'", "in rank_one_raises", cli.ExitFailed},
		"hooks.py:fails_later":     {"future_failed", "boom in the callback", "explode", cli.ExitFailed},
		"hooks.py:returns_none":    {"none_result", "it returned None", "", cli.ExitFailed},
		"hooks.py:too_short":       {"short", "20707 elements", "", cli.ExitFailed},
		"hooks.py:nothing_there":   {"load", "has no 'nothing_there'", "", cli.ExitFailed},
		"no_such_module:hook":      {"load", "there is no module 'no_such_module'", "", cli.ExitFailed},
		"not_importable.py:hook":   {"load", "a_module_that_nobody_has", "line 1, in <module>", cli.ExitFailed},
		"powersdg":                 {"load", "cannot read 'powersdg'", "", cli.ExitFailed},
		"hooks.py:dies":            {codeDied, "rank 1 was killed by SIGKILL", "", cli.ExitRankDied},
		"hooks.py:crashes":         {codeDied, "crashed: SIGSEGV: segmentation violation, in the hook (step 0, bucket 0)", "", cli.ExitRankDied},
		"hooks.py:leaves":          {codeDied, "exited with code 7", "", cli.ExitRankDied},
	} {
		t.Run(hook, func(t *testing.T) {
			run := checked
			if want.code == "load" {
				run = shared
			}
			r := run(t, want.exit, hook, "--timeout", "30s")
			require.NotNil(t, r.Failure)
			assert.Equal(t, want.code, r.Failure.Code)
			assert.Contains(t, r.Failure.Message, want.message)
			assert.Contains(t, r.Failure.Traceback, want.traceback)
			assert.NotContains(t, r.Failure.Message+r.Failure.Traceback, "pyhook_file_")
			assert.Empty(t, r.Buckets)
		})
	}
}

func TestCheckShowsAFailureWithItsTraceback(t *testing.T) {
	r := clitest.Command(t, nil, "check", "hooks.py:raises")
	assert.Equal(t, cli.ExitFailed, r.Code)
	assert.Empty(t, r.Stdout)
	assert.Regexp(t, `(?m)^error: hook hooks.py:raises, rank \d, bucket 0: the hook raised an exception: ValueError: boom in the hook\n`+
		`    Traceback \(most recent call last\):\n      File ".*hooks.py", line \d+, in raises\n        raise ValueError`, r.Stderr)
}

func TestCheckResultsThatAreNotFinite(t *testing.T) {
	r := shared(t, cli.ExitFailed, "hooks.py:not_a_number")
	assert.Contains(t, r.Problems[0], "650 of 650 elements are not finite")
}

func TestCheckHangs(t *testing.T) {
	r := checked(t, cli.ExitFailed, "hooks.py:sleeps", "--timeout", "1s")
	assert.Equal(t, codeTimeout, r.Failure.Code)
	assert.Contains(t, r.Failure.Message, "not done after 1s")
	assert.Contains(t, r.Failure.Traceback, "in sleeps")
	r = checked(t, cli.ExitFailed, "hooks.py:never_done", "--timeout", "1s")
	assert.Contains(t, r.Failure.Hint, "waits for the future")
	r = checked(t, cli.ExitFailed, "hooks.py:rank_one_waits", "--timeout", "1s")
	assert.Contains(t, r.Failure.Traceback+r.Failure.Others, "in rank_one_waits", "whichever rank noticed, the culprit's place is told")
}

func TestCheckPassesOnWhatHooksPrint(t *testing.T) {
	r := clitest.Command(t, nil, "check", "hooks.py:prints", "--steps", "1", "--sizes", "4", "--json")
	assert.Equal(t, cli.ExitOK, r.Code)
	assert.Contains(t, r.Stderr, "[rank 1] hello from the hook\n")
	clitest.Parse[checkReport](t, r.Stdout)
	assert.NotContains(t, r.Stderr, "Gloo")
}

func TestCheckIsStoppedBySignals(t *testing.T) {
	for sig, want := range map[syscall.Signal]int{syscall.SIGINT: cli.ExitInterrupted, syscall.SIGTERM: cli.ExitTerminated} {
		r := clitest.Interrupted(t, sig, "about to sleep", "check", "hooks.py:prints_and_sleeps")
		assert.Equal(t, want, r.Code, r.Stderr)
		assert.Empty(t, r.Stdout)
		assert.Contains(t, r.Stderr, "error: the check was stopped")
	}
}

func TestCheckWithoutPython(t *testing.T) {
	r := clitest.Command(t, []string{"PYHOOK_PYTHON=/nowhere/python"}, "check", "allreduce")
	assert.Equal(t, cli.ExitNoPython, r.Code)
	assert.Contains(t, r.Stderr, "/nowhere/python (PYHOOK_PYTHON): not found")
	assert.Contains(t, r.Stderr, "hint: pyhook doctor")
}

// TestCheckJoinsALauncher starts the ranks as torchrun does: by the environment
// and with an error file for each.
func TestCheckJoinsALauncher(t *testing.T) {
	results := joined(t, "allreduce")
	for rank, r := range results {
		assert.Equal(t, cli.ExitOK, r.Code, "rank %d: %s", rank, r.Stderr)
	}
	assert.Contains(t, results[0].Stdout, "ok: allreduce keeps the contract")
	assert.Empty(t, results[1].Stdout, "rank 0 speaks for all")

	results = joined(t, "noop")
	assert.Equal(t, []int{cli.ExitFailed, cli.ExitFailed}, []int{results[0].Code, results[1].Code})
	assert.Contains(t, results[0].Stdout, "ranks differ")

	results = joined(t, "hooks.py:raises")
	for rank, r := range results {
		assert.Equal(t, cli.ExitFailed, r.Code, rank)
		assert.Contains(t, r.Stderr, "boom in the hook")
		assert.Contains(t, results[rank].errorFile, "boom in the hook")
	}
	r := clitest.Command(t, []string{"RANK=0", "WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=1"}, "check", "allreduce", "-n", "3")
	assert.Equal(t, cli.ExitUsage, r.Code)
	assert.Contains(t, r.Stderr, "leave -n out")
}

type joinedResult struct {
	clitest.Result
	errorFile string
}

func joined(t *testing.T, args ...string) []joinedResult {
	t.Helper()
	clitest.NeedTorch(t) // here: the goroutines below must not end the test
	port := testutil.FreePort(t)
	results := make([]joinedResult, 2)
	done := make(chan int)
	for rank := range results {
		file := filepath.Join(t.TempDir(), "error.json")
		env := []string{"RANK=" + string(rune('0'+rank)), "WORLD_SIZE=2", "LOCAL_RANK=" + string(rune('0'+rank)), "LOCAL_WORLD_SIZE=2",
			"MASTER_ADDR=127.0.0.1", "MASTER_PORT=" + port, "TORCHELASTIC_ERROR_FILE=" + file, "TORCHELASTIC_RESTART_COUNT=0", "OMP_NUM_THREADS=1"}
		go func() {
			results[rank].Result = clitest.Command(t, env, append([]string{"check", "--timeout", "60s"}, args...)...)
			text, _ := os.ReadFile(file) // none where nothing failed
			results[rank].errorFile = string(text)
			done <- rank
		}()
	}
	for range results {
		<-done
	}
	return results
}

func TestJSONFieldsAreThoseOfTheHelp(t *testing.T) {
	bucket := bucketReport{Problem: "x"}
	failure := &checkFailure{Traceback: "x", Hint: "x", Others: "x"}
	clitest.NeedFields(t, JSONHelp, checkReport{Hint: "x", NoBytes: "x", Stock: "x", Buckets: []bucketReport{bucket}, Failure: failure,
		Order: &orderReport{Why: "x", Failure: failure}})
}

// Pools that nobody shuts down end with Python, as under the python command.
func TestCheckEndsThoughAHookLeavesItsProcessPoolOpen(t *testing.T) {
	checked(t, cli.ExitOK, "../../../../pyhook/testdata/endings.py:shuts_nothing_down", "--sizes", "100", "--steps", "1")
}

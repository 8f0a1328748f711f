package compare

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/cli"
	"pyhook/internal/cli/clitest"
	"pyhook/internal/compare"
	"pyhook/internal/testutil"
)

func TestParseHook(t *testing.T) {
	spec, err := parseHook("powersgd,matrix_approximation_rank=4,use_error_feedback=false")
	require.NoError(t, err)
	assert.Equal(t, "powersgd", spec.Hook)
	assert.Equal(t, "powersgd", spec.State)
	assert.Equal(t, []string{"matrix_approximation_rank=4", "use_error_feedback=false", "start_powerSGD_iter=2"}, spec.StateArgs)
	spec, err = parseHook("h.py:make(a=1, b=[2,c]),state=h.py:S,k=[1,2],name=\"x,y=1\"")
	require.NoError(t, err)
	assert.Equal(t, "h.py:make(a=1, b=[2,c])", spec.Hook)
	assert.Equal(t, "h.py:S", spec.State)
	assert.Equal(t, []string{"k=[1,2]", `name="x,y=1"`}, spec.StateArgs)
	spec, err = parseHook("quantize_pertensor,nccl_futures=true")
	require.NoError(t, err)
	assert.True(t, spec.NCCLFutures)
	for text, want := range map[string]string{
		"":                                  "names no hook",
		"powersgd,rank=x":                   "is not JSON",
		"fp16,k=1":                          "name the state that the arguments are for, fp16,state=my_hooks.py:State,k=1",
		"go:powersgd":                       "go:allreduce and go:fp16",
		"quantize_pertensor,nccl_futures=1": "true or false",
	} {
		_, err := parseHook(text)
		assert.ErrorContains(t, err, want, text)
	}
}

func TestCommand_usage(t *testing.T) {
	for want, args := range map[string][]string{
		"takes one hook or more":        {},
		"fp16 is there twice":           {"fp16", "fp16"},
		"at least 2 ranks are needed":   {"fp16", "-n", "1"},
		"predictions are for 2 to":      {"fp16", "--ranks", "2,1"},
		`invalid network "10Gb"`:        {"fp16", "--net", "10Gb"},
		"--gradients gamma":             {"fp16", "--gradients", "gamma"},
		`no model is called "resnet51"`: {"fp16", "--model", "resnet51"},
		"no such file":                  {"fp16", "--model", "none.json"},
		"at least 2, as":                {"fp16", "--steps", "1"},
		"--passes -1s":                  {"fp16", "--passes", "-1s"},
		"--bucket-cap-mb NaN":           {"fp16", "--bucket-cap-mb", "nan"},
		"--latency -1s":                 {"fp16", "--latency", "-1s"},
		"--timeout 0s":                  {"fp16", "--timeout", "0"},
		"1Gbit is there twice":          {"fp16", "--net", "1Gbit,2Gbit,1Gbit"},
		"it is a folder; name a file":   {"fp16", "--html", "."},
		"--bucket-cap-mb 0":             {"fp16", "--bucket-cap-mb", "0"},
	} {
		r := clitest.Command(t, nil, append([]string{"compare"}, args...)...)
		assert.Equal(t, cli.ExitUsage, r.Code, args)
		assert.Contains(t, r.Stderr, want)
		assert.Empty(t, r.Stdout)
	}
	for want, args := range map[string][]string{ // before minutes of measuring
		"--html: ": {"fp16", "--html", filepath.Join("hooks.py", "page.html")},
		"--plot: ": {"fp16", "--plot", "hooks.py"},
	} {
		r := clitest.Command(t, nil, append([]string{"compare"}, args...)...)
		assert.Equal(t, cli.ExitFailed, r.Code, args)
		assert.Regexp(t, "^error: "+want+".*not a directory", r.Stderr)
	}
	one := clitest.Command(t, []string{"RANK=0", "WORLD_SIZE=1", "LOCAL_RANK=0", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=1"}, "compare", "fp16")
	assert.Equal(t, cli.ExitUsage, one.Code)
	assert.Contains(t, one.Stderr, "at least 2 ranks are needed")
}

// One run has what the others would, as starting torch is what takes the time: good hooks, and hooks
// that fail beside them.
func TestCommand(t *testing.T) {
	folder := t.TempDir()
	page, plots := filepath.Join(folder, "page", "hooks.html"), filepath.Join(folder, "plots")
	r := clitest.Command(t, nil, "compare", "--model", "digits", "--steps", "8", "--json", "--html", page, "--plot", plots,
		"--ranks", "4,2", "--net", "1Gbit@1ms", "--passes", "10ms",
		"allreduce", "hooks.py:quarter,state=hooks.py:Quarter,feedback=false", "hooks.py:quarter,state=hooks.py:Quarter,feedback=true",
		"hooks.py:gather", "hooks.py:raises,state=hooks.py:Count", "hooks.py:dies", "hooks.py:quarter,state=hooks.py:Quarter", "hooks.py:nan")
	require.Equal(t, cli.ExitRankDied, r.Code, r.Stderr)
	report := clitest.Parse[compare.Report](t, r.Stdout)
	clitest.NeedFields(t, JSONHelp, report)
	require.Len(t, report.Hooks, 8)
	assert.False(t, report.OK)
	const gradient = 85_002 * 4
	exact, rounded, fed, gathered := report.Hooks[0], report.Hooks[1], report.Hooks[2], report.Hooks[3]

	for _, h := range report.Hooks[:4] {
		require.Nil(t, h.Failure, h.Hook)
		assert.Len(t, h.Deviations, 8)
		assert.Empty(t, h.Warnings, "%s: the collectives that were seen make the bytes that the kernel counted", h.Hook)
		assert.InEpsilon(t, gradient, h.Bytes, 0.02, h.Hook)
		require.Len(t, h.Predicted, 2)
		assert.Equal(t, []int{2, 4}, []int{h.Predicted[0].Ranks, h.Predicted[1].Ranks})
		assert.GreaterOrEqual(t, h.Predicted[0].Seconds, 4*1e-3, "two buckets, two messages each, or one")
		assert.Greater(t, h.Predicted[0].StepSeconds, 10e-3)
		assert.Positive(t, h.HookSeconds)
		assert.Positive(t, h.CollectiveSeconds)
	}
	assert.Less(t, exact.Last().Error, 1e-6)
	assert.InDelta(t, 1, exact.Last().Cosine, 1e-9)
	assert.Less(t, gathered.Last().Error, 1e-6)
	assert.Equal(t, []compare.Tally{{Kind: "all_gather", Count: 2, Bytes: gradient}}, gathered.Collectives)
	assert.InEpsilon(t, 1.5*gradient, exact.Predicted[1].Bytes, 1e-9)
	assert.InEpsilon(t, 3*gradient, gathered.Predicted[1].Bytes, 1e-9)
	assert.Less(t, fed.Last().Accumulated, 0.6*fed.Deviations[0].Accumulated, "error feedback shows")
	assert.Less(t, fed.Last().Accumulated, 0.7*rounded.Last().Accumulated)
	assert.EqualValues(t, 4000, rounded.StateBytes, "memory that tensors share is counted once")
	assert.EqualValues(t, 4000+gradient, fed.StateBytes)

	raises, died, argument, nan := report.Hooks[4].Failure, report.Hooks[5].Failure, report.Hooks[6].Failure, report.Hooks[7].Failure
	require.NotNil(t, raises)
	assert.Equal(t, "hook_raised", raises.Code)
	assert.Equal(t, 1, raises.Rank, "the rank that raised, not the one that lost it")
	assert.Contains(t, raises.Message, "the fourth call")
	assert.Contains(t, raises.Traceback, "hooks.py")
	require.NotNil(t, died)
	assert.Equal(t, "hook hooks.py:dies: rank 1 exited with code 7", died.Message)
	require.NotNil(t, argument)
	assert.Contains(t, argument.Message+argument.Traceback, "feedback")
	require.NotNil(t, nan)
	assert.Contains(t, nan.Message, "not finite")

	text, err := os.ReadFile(page)
	require.NoError(t, err)
	assert.Contains(t, string(text), "Chart.js v4")
	assert.Contains(t, string(text), "Permission is hereby granted", "the library's licence is in the page")
	for _, name := range []string{"error", "accumulated", "bytes", "predicted-1-1Gbit@1ms"} {
		image, err := os.ReadFile(filepath.Join(plots, name+".png"))
		require.NoError(t, err)
		assert.Equal(t, "\x89PNG", string(image[:4]))
	}
}

func TestCommand_launcher(t *testing.T) {
	clitest.NeedTorch(t) // here, and not on the goroutines alone
	port := testutil.FreePort(t)
	results := make(chan clitest.Result, 2)
	for _, rank := range []string{"0", "1"} {
		go func() {
			results <- clitest.Command(t, []string{"RANK=" + rank, "WORLD_SIZE=2", "LOCAL_RANK=" + rank, "LOCAL_WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=" + port},
				"compare", "--model", "digits", "--steps", "4", "go:allreduce", "allreduce")
		}()
	}
	said := 0
	for range 2 {
		r := <-results
		require.Equal(t, cli.ExitOK, r.Code, "%s%s", r.Stdout, r.Stderr)
		if r.Stdout == "" {
			continue
		}
		said++
		assert.Regexp(t, `go:allreduce +34\d kB`, r.Stdout)
		assert.Regexp(t, ` allreduce +34\d kB`, r.Stdout, "each hook's collectives are counted once")
		assert.Contains(t, r.Stdout, "predicted on 100Gbit")
		assert.NotContains(t, r.Stdout, "warning")
	}
	assert.Equal(t, 1, said, "rank 0 reports")
}

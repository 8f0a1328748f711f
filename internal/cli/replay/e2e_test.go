package replay

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/cli"
	"pyhook/internal/cli/clitest"
	"pyhook/internal/testutil"
	"pyhook/tests/recording"
)

func TestMain(m *testing.M) { clitest.Main(m) }

// TestReplay runs the command on recordings that are made once.
func TestReplay(t *testing.T) {
	clitest.NeedTorch(t)
	hooks := filepath.Join(recording.Testdata(), "recorded_hooks.py")
	sizes := []int{20, 40, 10}
	folder, facts := recording.Make(t, 2, []recording.Case{
		{Name: "mean", Hook: "allreduce", Sizes: sizes, CapMB: 0.001, Steps: 2, Record: 2},
		{Name: "counted", Hook: hooks + ":counted", State: hooks + ":Scale", Sizes: sizes, CapMB: 0.001, Steps: 3, Record: 3},
	})
	for name, ranks := range facts {
		require.Empty(t, ranks[0].Error, name)
	}
	mean, counted := filepath.Join(folder, "mean"), filepath.Join(folder, "counted")

	t.Run("a hook of the user's own runs only if it is named, and the error says how", func(t *testing.T) {
		r := clitest.Command(t, nil, "replay", counted)
		assert.Equal(t, cli.ExitFailed, r.Code)
		assert.Contains(t, r.Stderr, "which is run only if you name it")
		assert.Contains(t, r.Stderr, "hint: pyhook replay "+counted+" --hook "+hooks+":counted --state '"+hooks+":Scale(factor=1.0)'")
	})
	t.Run("named, it gives the same bits", func(t *testing.T) {
		r := clitest.Command(t, nil, "replay", counted, "--json", "--hook", hooks+":counted", "--state", hooks+":Scale(factor=1.0)")
		require.Equal(t, cli.ExitOK, r.Code, "%s%s", r.Stdout, r.Stderr)
		report := clitest.Parse[Report](t, r.Stdout)
		assert.True(t, report.OK && report.Complete && report.Failure == nil)
		assert.Equal(t, []int{0, 1, 2}, report.Steps)
		assert.Equal(t, 2*(1+2+2), report.Compared, "two ranks; one bucket in the first step")
		assert.Equal(t, report.Compared, report.Alike)
		assert.Empty(t, report.Notes)
		clitest.NeedFields(t, JSONHelp, report)
	})
	t.Run("named with other arguments, it says whose count", func(t *testing.T) {
		r := clitest.Command(t, nil, "replay", counted, "--hook", hooks+":counted", "--state", hooks+":Scale(factor=2.0)")
		assert.Equal(t, cli.ExitOK, r.Code, "%s%s", r.Stdout, r.Stderr)
		assert.Contains(t, r.Stdout, "note: the recorded state was put into "+hooks+":Scale(factor=2.0), so what it was made with is the recording's: --state-arg makes a state of your own")
	})
	t.Run("a wrong hook is caught with its first element", func(t *testing.T) {
		r := clitest.Command(t, nil, "replay", mean, "--hook", hooks+":wrong")
		assert.Equal(t, cli.ExitFailed, r.Code)
		assert.Contains(t, r.Stdout, "elements differ, first 7 (")
		assert.Contains(t, r.Stdout, ", 1 ulp; largest error")
		assert.Contains(t, r.Stdout, "6 results of 2 steps: 4 differ")
	})
	t.Run("within --tolerance it is accepted", func(t *testing.T) {
		r := clitest.Command(t, nil, "replay", mean, "--json", "--hook", hooks+":wrong", "--tolerance", "1e-6")
		require.Equal(t, cli.ExitOK, r.Code, "%s%s", r.Stdout, r.Stderr)
		report := clitest.Parse[Report](t, r.Stdout)
		assert.Equal(t, 2, report.Compared-report.Alike-2)
		assert.Equal(t, int64(7), report.Differences[0].First)
		assert.Positive(t, report.Largest)
		clitest.NeedFields(t, JSONHelp, report)
	})
	t.Run("ranks of a launcher replay their own recordings", func(t *testing.T) {
		port := testutil.FreePort(t)
		var results [2]clitest.Result
		var all sync.WaitGroup
		for rank := range results {
			all.Go(func() {
				env := []string{"RANK=" + strconv.Itoa(rank), "WORLD_SIZE=2", "LOCAL_RANK=" + strconv.Itoa(rank), "LOCAL_WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=" + port}
				results[rank] = clitest.Command(t, env, "replay", mean)
			})
		}
		all.Wait()
		for rank, r := range results {
			assert.Equal(t, cli.ExitOK, r.Code, "rank %d: %s%s", rank, r.Stdout, r.Stderr)
		}
		assert.Contains(t, results[0].Stdout, "6 results of 2 steps: the same bits")
		assert.Empty(t, results[1].Stdout)
	})
	t.Run("a part of the ranks, of a recording that was cut off, says what that means", func(t *testing.T) {
		edit(t, filepath.Join(mean, "rank1", "manifest.json"), func(m map[string]any) { m["complete"], m["ended"] = false, nil })
		r := clitest.Command(t, nil, "replay", mean, "--ranks", "1")
		assert.Equal(t, cli.ExitFailed, r.Code, r.Stderr)
		assert.Contains(t, r.Stdout, "note: the recording was cut off after 2 whole steps; what is there is replayed")
		assert.Contains(t, r.Stdout, "note: 1 of 2 recorded ranks: the hook averages over these alone, so its results are not the recorded ones")
	})
	t.Run("a tensor that was cut short is named", func(t *testing.T) {
		file := filepath.Join(mean, "rank0", "step000001.bucket0000.safetensors")
		require.NoError(t, os.Truncate(file, 100))
		r := clitest.Command(t, nil, "replay", mean, "--ranks", "0")
		assert.Equal(t, cli.ExitFailed, r.Code)
		assert.Contains(t, r.Stderr, file+": it is not a safetensors file, or was cut short or changed")
		assert.Contains(t, r.Stderr, "step 1: bucket 0: ")
	})
	t.Run("a rank is missing", func(t *testing.T) {
		require.NoError(t, os.RemoveAll(filepath.Join(mean, "rank1")))
		r := clitest.Command(t, nil, "replay", mean)
		assert.Equal(t, cli.ExitFailed, r.Code)
		assert.Contains(t, r.Stderr, "rank 1 is missing; there are rank0")
	})
}

// edit changes a file of JSON.
func edit(t *testing.T, path string, change func(map[string]any)) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var value map[string]any
	require.NoError(t, json.Unmarshal(text, &value))
	change(value)
	text, err = json.Marshal(value)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text, 0o600))
}

func TestReplay_Usage(t *testing.T) {
	for name, args := range map[string][]string{
		"takes one folder":          {},
		"--state without --hook":    {"trace", "--state", "powersgd"},
		"--state-arg without":       {"trace", "--state-arg", "factor=2.0"},
		"must not be negative":      {"trace", "--tolerance", "-1"},
		"--tolerance NaN":           {"trace", "--tolerance", "nan"},
		"is negative or there":      {"trace", "--ranks", "1,1"},
		"more than nothing":         {"trace", "--timeout", "0s"},
		"where nccl does not work":  {"trace", "--backend", "nccl"},
		"write key=JSON":            {"trace", "--hook", "fp16", "--state", "powersgd", "--state-arg", "a"},
		"invalid argument \"fast\"": {"trace", "--order", "fast"},
	} {
		r := clitest.Command(t, nil, append([]string{"replay"}, args...)...)
		assert.Equal(t, cli.ExitUsage, r.Code, name)
		assert.Contains(t, r.Stderr, name)
	}
	r := clitest.Command(t, nil, "replay", "no_such_folder")
	assert.Equal(t, cli.ExitFailed, r.Code)
	assert.True(t, strings.HasPrefix(r.Stderr, "error: recording no_such_folder: there is no such folder"), r.Stderr)
}

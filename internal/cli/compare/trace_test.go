package compare

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/cli"
	"pyhook/internal/cli/clitest"
	"pyhook/internal/compare"
	"pyhook/tests/recording"
)

func TestCommand_trace(t *testing.T) {
	clitest.NeedTorch(t)
	folder, _ := recording.Make(t, 2, []recording.Case{{Name: "job", Hook: "allreduce", Sizes: []int{16, 64, 32, 4}, CapMB: 0.005, Steps: 5, Record: 5}})
	trace := filepath.Join(folder, "job")
	r := clitest.Command(t, nil, "compare", "--trace", trace, "--json", "allreduce")
	require.Equal(t, cli.ExitOK, r.Code, r.Stderr)
	report := clitest.Parse[compare.Report](t, r.Stdout)
	assert.Equal(t, 4, report.Steps, "the first step has one bucket, and is left out")
	assert.Contains(t, report.Gradients, "steps of other buckets are left out: 1")
	assert.Equal(t, 6, report.Parameters)
	assert.Greater(t, report.Buckets, 1)
	assert.EqualValues(t, 16*64+64+64*32+32+32*4+4, report.Elements)
	require.Len(t, report.Hooks[0].Deviations, 4)
	for _, d := range report.Hooks[0].Deviations {
		assert.Less(t, d.Error, 1e-6)
	}

	for want, args := range map[string][]string{
		"was recorded on 2 ranks":                       {"-n", "3"},
		"has 4 steps of the same buckets":               {"--steps", "5"},
		"--model with --trace: a recording has its own": {"--model", "gpt2"},
	} {
		r := clitest.Command(t, nil, append([]string{"compare", "--trace", trace, "fp16"}, args...)...)
		assert.Equal(t, cli.ExitUsage, r.Code)
		assert.Contains(t, r.Stderr, want)
	}
	for want, change := range map[string][2]string{ // of a manifest
		"was recorded on one rank":                {`"world_size": 2`, `"world_size": 1`},
		"has complex gradients, and an error is ": {`"dtype": "float32", "numel"`, `"dtype": "complex64", "numel"`},
	} {
		other := filepath.Join(t.TempDir(), "trace")
		require.NoError(t, os.CopyFS(other, os.DirFS(trace)))
		for _, rank := range []string{"rank0", "rank1"} {
			text, err := os.ReadFile(filepath.Join(other, rank, "manifest.json"))
			require.NoError(t, err)
			require.Contains(t, string(text), change[0])
			require.NoError(t, os.WriteFile(filepath.Join(other, rank, "manifest.json"), []byte(strings.ReplaceAll(string(text), change[0], change[1])), 0o600))
		}
		r := clitest.Command(t, nil, "compare", "--trace", other, "fp16")
		assert.NotEqual(t, cli.ExitOK, r.Code)
		assert.Contains(t, r.Stderr, want)
	}
	require.NoError(t, os.RemoveAll(filepath.Join(trace, "rank1")))
	r = clitest.Command(t, nil, "compare", "--trace", trace, "fp16")
	assert.Equal(t, cli.ExitFailed, r.Code)
	assert.Contains(t, r.Stderr, "rank 1 is missing; there are rank0")
}

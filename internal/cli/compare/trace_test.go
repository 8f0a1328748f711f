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
	assert.Contains(t, report.Gradients, "1 recorded steps of other buckets are left out")
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
	require.NoError(t, os.RemoveAll(filepath.Join(trace, "rank1")))
	r = clitest.Command(t, nil, "compare", "--trace", trace, "fp16")
	assert.Equal(t, cli.ExitFailed, r.Code)
	assert.Contains(t, r.Stderr, "rank 1 is missing; there are rank0")
}

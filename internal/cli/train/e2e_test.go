package train

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/cli"
	"pyhook/internal/cli/clitest"
	"pyhook/internal/demo/trainer"
)

func TestTrainWithATraceOfBothRanks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out", "trace.json")
	r := clitest.Command(t, nil, "train", "-n", "2", "--hook", "powersgd", "--epochs", "1", "--trace", path, "--json")
	require.Equal(t, cli.ExitOK, r.Code, "%s%s", r.Stdout, r.Stderr)
	report := clitest.Parse[trainer.Report](t, r.Stdout)
	assert.True(t, report.WeightsIdentical)
	assert.Equal(t, 2, report.Size)
	require.Greater(t, report.Buckets, 1)

	data, err := os.ReadFile(path)
	require.NoError(t, err)
	trace := clitest.Parse[struct {
		TraceEvents []struct {
			Name     string  `json:"name"`
			Phase    string  `json:"ph"`
			Category string  `json:"cat"`
			Rank     int     `json:"pid"`
			Duration float64 `json:"dur"`
		} `json:"traceEvents"`
	}](t, string(data))
	count := map[string]int{}
	for _, e := range trace.TraceEvents {
		if e.Phase == "X" || e.Phase == "b" {
			count[fmt.Sprintf("%d/%s/%s", e.Rank, e.Category, e.Name)]++
		}
	}
	for rank := range 2 {
		assert.Equal(t, report.Steps, count[fmt.Sprintf("%d/trainer/forward and backward", rank)])
		for bucket := range report.Buckets {
			for _, span := range []string{"bucket #/compute", "hooks/call, bucket #", "bucket #/in flight", "bucket #/copy-back"} {
				span = fmt.Sprintf("%d/%s", rank, strings.ReplaceAll(span, "#", fmt.Sprint(bucket)))
				assert.Equal(t, report.Steps, count[span], span)
			}
			// Not compressed in the first steps, and then: rest, P and Q.
			assert.Greater(t, count[fmt.Sprintf("%d/collectives/bucket %d", rank, bucket)], 2*report.Steps)
		}
	}
}

func TestTrainRefusesATraceThatCannotBeWrittenAtItsEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	r := clitest.Command(t, nil, "train", "-n", "1", "--hook", "go:allreduce", "--epochs", "1", "--trace", filepath.Join(file, "trace.json"))
	assert.NotEqual(t, cli.ExitOK, r.Code)
	assert.Contains(t, r.Stderr, "writing "+file)
}

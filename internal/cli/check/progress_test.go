package check

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheCallToNameIsTheOneInsideOrTheOldest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "progress")
	write, err := progressTo(path)
	require.NoError(t, err)
	marks := []mark{{begun, 0, 0, 0}, {returned, 0, 0, 0}, {begun, 0, 0, 1}, {over, 0, 0, 0}, {returned, 0, 0, 1}, {begun, 0, 0, 2}, {returned, 0, 0, 2}, {over, 0, 0, 2}, {over, 0, 0, 1}}
	want := []mark{{begun, 0, 0, 0}, {returned, 0, 0, 0}, {begun, 0, 0, 1}, {begun, 0, 0, 1}, {returned, 0, 0, 1}, {begun, 0, 0, 2}, {returned, 0, 0, 1}, {returned, 0, 0, 1}, {}}
	for i, m := range marks {
		write(m)
		var open openCalls
		for _, read := range readMarks(path) {
			open.add(read)
		}
		first, ok := open.first()
		assert.Equal(t, want[i], first, i)
		assert.Equal(t, i < len(marks)-1, ok, i)
	}
	assert.Equal(t, marks, readMarks(path))
	plan := samplePlan()
	assert.Equal(t, "step 1 of 2, bucket 2", progressText(path, plan))
	write(mark{begun, 1, 1, 0})
	assert.Equal(t, "in another order of buckets, to compare: step 2 of 2, bucket 1", progressText(path, plan))
	assert.Equal(t, "starting Python and torch on each rank ...", progressText(path+".none", plan))
}

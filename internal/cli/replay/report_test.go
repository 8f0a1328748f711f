package replay

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"pyhook/internal/replay"
	"pyhook/internal/report"
	"pyhook/internal/trace"
)

// printed is the text of a report of one bucket in each of two steps, on two ranks.
func printed(skipped string, ranks ...*replay.RankReport) (*Report, string) {
	f := &flags{plan: replay.Plan{Folder: "trace", Ranks: []int{0, 1}}}
	m := &trace.Manifest{Complete: true, Ended: "steps", WorldSize: 2}
	for step := range 2 {
		m.Steps = append(m.Steps, trace.Step{Step: step, Calls: []trace.Call{{Skipped: skipped}}})
	}
	r := newReport(f, m)
	for number, one := range ranks {
		one.Rank, one.Hook, one.Torch, one.Steps = number, "hook", "2", []int{0, 1}
		r.add(one)
	}
	r.judge(f)
	var out, stderr strings.Builder
	r.print(report.New(&out), report.New(&stderr))
	return r, out.String() + stderr.String()
}

func TestReport(t *testing.T) {
	t.Run("where nothing was recorded nothing is said to be the same", func(t *testing.T) {
		skips := []string{"step 0, bucket 0: a sparse gradient", "step 1, bucket 0: a sparse gradient"}
		r, text := printed("a sparse gradient", &replay.RankReport{Complete: true, Skipped: skips}, &replay.RankReport{Complete: true, Skipped: skips})
		assert.False(t, r.OK)
		assert.NotContains(t, text, "same bits")
		assert.Contains(t, text, "0 to 1  1        not recorded\n")
		assert.Contains(t, text, "0 results of 2 steps: nothing was compared\n")
		assert.Contains(t, text, "note: not recorded, so not compared: 2 calls, each of a sparse gradient\n")
	})
	t.Run("a rank's note names it, that of all does not, and one that was cut off counts", func(t *testing.T) {
		r, text := printed("", &replay.RankReport{Complete: true, Ended: "steps", Compared: 2, Notes: []string{"all"}},
			&replay.RankReport{Compared: 2, Partial: true, Notes: []string{"all", "cut off"}})
		assert.False(t, r.OK || r.Complete)
		assert.Empty(t, r.Ended)
		assert.Equal(t, []string{"all", "rank 1: cut off"}, r.Notes)
		assert.Contains(t, text, "the same bits, but not all that was recorded could be replayed\n")
	})
}

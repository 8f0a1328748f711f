package check

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"pyhook/cbridge"
	"pyhook/internal/cli"
)

// spawnCheck starts the ranks as processes of this binary.
func spawnCheck(cmd *cobra.Command, f *checkFlags) error {
	ctx := cmd.Context()
	python, _, err := cbridge.Discover(ctx, cli.PythonFlag(cmd), "torch")
	if err != nil {
		return err
	}
	out := newRankOutput(cmd.ErrOrStderr())
	ranks, err := cli.SpawnPlan(ctx, "check", f.ranks, f.plan, rankCommand, python.Executable, out,
		func(dir string) func() { return out.showProgress(progressFileName(dir, 0), &f.plan) })
	if err != nil {
		return err
	}
	defer ranks.Close()
	return finishCheck(cmd, f, aggregate(&f.plan, collect(ranks, f.ranks, out)))
}

// collect reads the ranks' reports. A rank without one died.
func collect(ran *cli.Ranks, n int, out *rankOutput) []*rankReport {
	var ranks []*rankReport
	for rank := range n {
		r := &rankReport{}
		err := ran.Read(rank, r)
		switch {
		case err != nil:
			r = &rankReport{Rank: rank, Size: n, Failure: died(ran, rank, out)}
		case r.failure() != nil:
		case r.Compared != nil && r.Compared.Running, // it was to go on
			ran.FirstToFail(rank): // after its report: as Python ended
			r.fail(died(ran, rank, out), false)
		}
		ranks = append(ranks, r)
	}
	return ranks
}

// died says how a rank ended that could not say it itself. Of several that died
// the one that launch took for the cause comes first.
func died(ran *cli.Ranks, rank int, out *rankOutput) *checkFailure {
	f := &checkFailure{Code: codeDied, Rank: rank, Step: -1, Bucket: -1, At: time.Now().UnixNano()}
	if ran.FirstToFail(rank) {
		f.At = 0
	}
	how := ran.HowItEnded(rank, "ended without a report")
	if crash := out.crashed(rank); crash != "" {
		how = "crashed: " + crash
	}
	f.Message = fmt.Sprintf("rank %d %s", rank, how)
	var open openCalls
	for _, m := range readMarks(progressFileName(ran.Dir, rank)) {
		open.add(m)
	}
	if at, ok := open.first(); ok {
		f.Step, f.Bucket = at.step, at.bucket
		f.Message += fmt.Sprintf(", in the hook (step %d, bucket %d)", f.Step, f.Bucket)
		f.Hint = "the hook, or C code that it calls, ended the whole process"
	}
	return f
}

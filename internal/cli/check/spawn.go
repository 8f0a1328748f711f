package check

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pyhook/cbridge"
	"pyhook/internal/cli"
	"pyhook/launch"
)

// spawnCheck starts the ranks as processes of this binary.
func spawnCheck(cmd *cobra.Command, f *checkFlags) error {
	ctx := cmd.Context()
	python, _, err := cbridge.Discover(ctx, cli.PythonFlag(cmd), "torch")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "pyhook-check-")
	if err != nil {
		return fmt.Errorf("making a folder for the ranks' reports: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := cli.WriteJSON(filepath.Join(dir, planFile), f.plan); err != nil {
		return err
	}
	out := newRankOutput(cmd.ErrOrStderr())
	stop := out.showProgress(progressFileName(dir, 0), &f.plan)
	spawnErr := cli.SpawnSelf(ctx, f.ranks, out, "__check-rank", "--dir", dir, "--python", python.Executable)
	stop()
	if err := cli.Stopped(ctx, "check"); err != nil {
		return err
	}
	var rankErr *launch.RankError
	if spawnErr != nil && !errors.As(spawnErr, &rankErr) {
		return spawnErr
	}
	return finishCheck(cmd, f, aggregate(&f.plan, collect(dir, f.ranks, rankErr, out)))
}

// collect reads the ranks' reports. A rank without one died.
func collect(dir string, n int, rankErr *launch.RankError, out *rankOutput) []*rankReport {
	var ranks []*rankReport
	for rank := range n {
		r := &rankReport{}
		err := cli.ReadJSON(cli.RankFileName(dir, rank), r)
		switch {
		case err != nil:
			r = &rankReport{Rank: rank, Size: n, Failure: died(dir, rank, rankErr, out)}
		case r.failure() != nil:
		case r.Compared != nil && r.Compared.Running, // it was to go on
			rankErr != nil && rankErr.Rank == rank: // after its report: as Python ended
			r.fail(died(dir, rank, rankErr, out), false)
		}
		ranks = append(ranks, r)
	}
	return ranks
}

// died says how a rank ended that could not say it itself. Of several that died
// the one that launch took for the cause comes first.
func died(dir string, rank int, rankErr *launch.RankError, out *rankOutput) *checkFailure {
	f := &checkFailure{Code: codeDied, Rank: rank, Step: -1, Bucket: -1, At: time.Now().UnixNano()}
	how := "ended without a report"
	if rankErr != nil && rankErr.Rank == rank {
		f.At = 0
		how = strings.TrimPrefix((&launch.RankError{Rank: rank, ExitCode: rankErr.ExitCode, Signal: rankErr.Signal}).Error(), fmt.Sprintf("launch: rank %d ", rank))
	}
	if crash := out.crashed(rank); crash != "" {
		how = "crashed: " + crash
	}
	f.Message = fmt.Sprintf("rank %d %s", rank, how)
	var open openCalls
	for _, m := range readMarks(progressFileName(dir, rank)) {
		open.add(m)
	}
	if at, ok := open.first(); ok {
		f.Step, f.Bucket = at.step, at.bucket
		f.Message += fmt.Sprintf(", in the hook (step %d, bucket %d)", f.Step, f.Bucket)
		f.Hint = "the hook, or C code that it calls, ended the whole process"
	}
	return f
}

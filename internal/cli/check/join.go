package check

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"pyhook/internal/cli"
	"pyhook/internal/gather"
	"pyhook/internal/report"
	"pyhook/launch"
)

// joinCheck is one rank of a job that torchrun or another launcher started.
// Rank 0 reports; where a rank fails each speaks for itself, since the others
// cannot be asked any more.
func joinCheck(cmd *cobra.Command, f *checkFlags, world launch.World) error {
	if err := world.Export(); err != nil {
		return err
	}
	ctx := cmd.Context()
	defer cli.WaitingFor("the hook call to end (%s)", cli.InC)()
	run := newRankRun(&f.plan, world.Rank, world.Size)
	var ranks []*rankReport
	run.judged = func(ctx context.Context) (err error) {
		ranks, err = run.gather(ctx)
		return err
	}
	mine := run.supervise(ctx, cli.PythonFlag(cmd))
	if mine.failure() != nil {
		if err := cli.Stopped(ctx, "check"); err != nil {
			return err
		}
	}
	if mine.Failure != nil {
		return failJoined(cmd, f, mine)
	}
	ranks, whole, err := run.gatherAll(ctx, ranks, mine)
	if err != nil {
		return err
	}
	r := aggregate(&f.plan, ranks)
	if whole {
		if err := run.close(); err != nil {
			return err
		}
	}
	if world.Rank == 0 {
		return finishCheck(cmd, f, r)
	}
	return cli.Exit(r.exitCode())
}

func failJoined(cmd *cobra.Command, f *checkFlags, mine *rankReport) error {
	failure := mine.Failure
	// A rank that only lost its peer must not pass for the root cause.
	if !failure.onlySawAnother() {
		if err := launch.WriteErrorFile(errors.New(failure.Message), time.Unix(0, failure.At)); err != nil {
			report.New(cmd.ErrOrStderr()).Error(err.Error(), "")
		}
	}
	failure.At = 0
	r := newCheckReport(&f.plan, mine.Size)
	r.HookName, r.Python, r.Torch, r.Failure = mine.HookName, mine.Python, mine.Torch, failure
	if mine.Rank == 0 {
		return finishCheck(cmd, f, r)
	}
	report.New(cmd.ErrOrStderr()).Error(failure.Message, failure.Traceback, failure.Hint)
	return cli.Exit(r.exitCode())
}

// gatherAll exchanges the reports with the comparison. Where that broke the group
// this rank has the others' reports of before, and whole is false: Python is left
// as it is.
func (r *rankRun) gatherAll(ctx context.Context, judged []*rankReport, mine *rankReport) (ranks []*rankReport, whole bool, err error) {
	if mine.failure() == nil {
		ranks, err = r.gather(ctx)
		if err == nil || mine.Compared == nil {
			return ranks, true, err
		}
		mine.Compared.Running = true
		mine.fail(newFailure(mine.Rank, -1, -1, err), false)
	}
	for _, rank := range judged {
		rank.Compared = nil // as it was before it ran
	}
	ranks = append([]*rankReport{}, judged...)
	ranks[mine.Rank] = mine
	return ranks, false, nil
}

// gather exchanges the reports over the group.
func (r *rankRun) gather(ctx context.Context) ([]*rankReport, error) {
	r.enter("gathering the reports", startLimit)
	r.mu.Lock()
	mine := r.report
	r.mu.Unlock()
	return gather.JSON(ctx, r.group, &mine)
}

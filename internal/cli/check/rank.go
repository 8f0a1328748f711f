package check

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"pyhook/internal/cli"
)

const rankCommand = "__check-rank"

// progressFileName is where a rank says what it does, for the process that started it.
func progressFileName(dir string, rank int) string {
	return filepath.Join(dir, fmt.Sprintf("progress-%d", rank))
}

// RankCommand is one rank, started by spawnCheck.
func RankCommand() *cobra.Command { return cli.RankCommand(rankCommand, checkRank) }

func checkRank(ctx context.Context, r *cli.Rank, plan *checkPlan) (err error) {
	run := newRankRun(plan, r.Rank, r.Size)
	if run.progress, err = progressTo(progressFileName(r.Dir, r.Rank)); err != nil {
		return err
	}
	run.judged = func(context.Context) error {
		run.mu.Lock()
		defer run.mu.Unlock()
		return r.Answer(&run.report)
	}
	report := run.supervise(ctx, r.Python)
	if err := r.Answer(report); err != nil {
		return err
	}
	if report.failure() != nil {
		// Python is left as it is: destroying a group with a failed
		// collective can hang.
		return cli.Exit(cli.ExitFailed)
	}
	return run.close()
}

// supervise runs work and returns the report when that is done, when a hook call
// takes too long, or when ctx ends. Python may be stuck for good then, so the
// process must exit.
func (r *rankRun) supervise(ctx context.Context, python string) *rankReport {
	done := make(chan error, 1)
	go func() { done <- r.work(ctx, python) }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			r.mu.Lock()
			defer r.mu.Unlock()
			if err != nil {
				r.report.fail(newFailure(r.report.Rank, r.step, r.bucket, err), stoppedAs(ctx, err))
			}
			return &r.report
		case <-ctx.Done():
			return r.stuck(codeStopped, "stopped while "+r.activity())
		case <-tick.C:
			r.mu.Lock()
			late := time.Now().After(r.deadline)
			r.mu.Unlock()
			if late {
				return r.stuck(codeTimeout, r.lateMessage())
			}
		}
	}
}

// stoppedAs reports whether an error comes of the cancelled context: then it is not a failure.
func stoppedAs(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx)))
}

func (r *rankRun) activity() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.doing == inHook {
		return fmt.Sprintf("in the hook, step %d, bucket %d", r.step, r.bucket)
	}
	return r.doing
}

func (r *rankRun) lateMessage() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.doing == inHook {
		return fmt.Sprintf("hook %s, rank %d, bucket %d: not done after %s (step %d)", r.plan.Hook, r.report.Rank, r.bucket, r.plan.Timeout, r.step)
	}
	return fmt.Sprintf("rank %d: %s took more than %s", r.report.Rank, r.doing, r.limit)
}

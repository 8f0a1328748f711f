package compare

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"pyhook/cbridge"
	"pyhook/internal/cli"
	"pyhook/internal/cli/train"
	"pyhook/internal/compare"
	"pyhook/internal/demo/trainer"
	"pyhook/internal/report"
)

// spawn runs each hook on ranks of this machine.
func (o *options) spawn(cmd *cobra.Command) error {
	ctx := cmd.Context()
	python, _, err := cbridge.Discover(ctx, cli.PythonFlag(cmd), "torch")
	if err != nil {
		return err
	}
	line := report.NewProgress(cmd.ErrOrStderr())
	defer line.Clear()
	r := o.newReport(o.local)
	buckets := make([][]compare.BucketCost, len(o.specs))
	for i := range o.specs {
		line.Step(fmt.Sprintf("%s on %d ranks", o.names[i], o.local), i, len(o.specs)+1)
		h := o.newHookReport(i)
		ranks, failure, err := o.spawnHook(ctx, i, python.Executable, line)
		if err != nil {
			return err
		}
		if h.Failure = failure; failure == nil {
			r.Add(&h, ranks)
			buckets[i], r.Buckets = ranks[0].Buckets, len(ranks[0].Buckets)
		}
		if o.train && failure == nil {
			line.Clear()
			if h.Training, h.Failure, err = o.trainHook(ctx, i, python.Executable); err != nil {
				return err
			}
		}
		r.Hooks = append(r.Hooks, h)
	}
	line.Clear()
	return o.finishReport(cmd, r, buckets)
}

// spawnHook runs one hook. err is of the command itself.
func (o *options) spawnHook(ctx context.Context, i int, python string, line *report.Progress) (ranks []*compare.RankResult, failure *compare.Failure, err error) {
	ran, err := cli.SpawnPlan(ctx, "comparison", o.local, o.plan(i, o.local), rankCommand, python, line, nil)
	if err != nil {
		return nil, nil, err
	}
	defer ran.Close()
	var failures []*rankFailure
	for rank := range o.local {
		var answer rankAnswer
		switch err := ran.Read(rank, &answer); {
		case err != nil:
			failures = append(failures, o.died(i, rank, ran))
		case answer.Failure != nil:
			failures = append(failures, answer.Failure)
		default:
			ranks = append(ranks, answer.Result)
		}
	}
	if failure := root(failures); failure != nil {
		return nil, failure, nil
	}
	return ranks, nil, nil
}

// died says how a rank ended that could not say it itself.
func (o *options) died(i, rank int, ran *cli.Ranks) *rankFailure {
	f := &rankFailure{Peer: !ran.FirstToFail(rank)} // the launcher ends the others when one has ended
	f.Code, f.Rank, f.Message = codeDied, rank, fmt.Sprintf("hook %s: rank %d %s", o.names[i], rank, ran.HowItEnded(rank, "ended without a result"))
	f.Hint = "the hook, or C code that it calls, ended the whole process, or memory ran out"
	return f
}

// trainHook trains the demo with a hook.
func (o *options) trainHook(ctx context.Context, i int, python string) (*compare.Training, *compare.Failure, error) {
	run := train.Options{Config: trainer.Defaults(), Ranks: o.local, Python: python}
	run.Hook, run.Seed, run.Timeout = o.specs[i], o.seed, o.timeout
	trained, err := run.RunLocal(ctx)
	if stopped := cli.Stopped(ctx, "comparison"); stopped != nil {
		return nil, nil, stopped
	}
	var usage *cli.ExitError
	if errors.As(err, &usage) {
		return nil, nil, err
	}
	if err != nil {
		f := newFailure(-1, fmt.Errorf("training with %s: %w", o.names[i], err))
		return nil, &f.Failure, nil
	}
	return &compare.Training{Accuracy: trained.Accuracy, WeightsIdentical: trained.WeightsIdentical, Loss: trained.Loss}, nil, nil
}

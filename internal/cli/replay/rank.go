package replay

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/internal/cli"
	"pyhook/internal/gather"
	"pyhook/internal/replay"
	"pyhook/internal/trace"
	"pyhook/launch"
	"pyhook/pyhook"
)

const rankCommand = "__replay-rank"

// RankCommand returns the hidden command that is one rank, started by spawn.
func RankCommand() *cobra.Command {
	return cli.RankCommand(rankCommand, func(ctx context.Context, r *cli.Rank, plan *replay.Plan) error {
		mine := runRank(ctx, plan, r.Rank, r.Python)
		if err := r.Answer(mine); err != nil {
			return err
		}
		if mine.Failure != nil {
			return cli.Exit(cli.ExitFailed)
		}
		return nil
	})
}

// grace is what a rank has beyond a step's time, in which a hook that Go can interrupt ends.
const grace = 10 * time.Second

// runRank replays on this rank. A hook that blocks in C is given up after its step's time.
func runRank(ctx context.Context, plan *replay.Plan, number int, python string) *replay.RankReport {
	done := make(chan *replay.RankReport, 1)
	go func() {
		r := &replay.RankReport{Rank: plan.Ranks[number]}
		if _, err := run(ctx, plan, python, r); err != nil {
			r.Failure = failureOf(ctx, err)
		}
		done <- r
	}()
	select {
	case r := <-done:
		return r
	case <-ctx.Done():
	}
	select {
	case r := <-done:
		return r
	case <-time.After(grace):
		return &replay.RankReport{Rank: plan.Ranks[number], Failure: &replay.Failure{Message: "stopped; " + cli.InC, Stopped: true}}
	}
}

// run replays on this rank, and returns the group that it joined.
func run(ctx context.Context, plan *replay.Plan, python string, r *replay.RankReport) (*pyhook.TorchGroup, error) {
	rt, err := cli.StartRuntime(ctx, python)
	if err != nil {
		return nil, err
	}
	group, err := replay.Join(ctx, rt, plan)
	if err != nil {
		return nil, err
	}
	return group, replay.Run(ctx, rt, group, plan, r)
}

func failureOf(ctx context.Context, err error) *replay.Failure {
	return &replay.Failure{
		Message: err.Error(), Traceback: cli.PythonTraceback(err),
		Peer: errors.Is(err, c10d.ErrPeer), Stopped: ctx.Err() != nil,
	}
}

// spawn starts the ranks as processes of this program.
func (f *flags) spawn(cmd *cobra.Command) error {
	ctx := cmd.Context()
	ranks, err := trace.Open(f.plan.Folder, f.plan.Ranks)
	if err != nil {
		return err
	}
	f.plan.Ranks = nil
	for _, r := range ranks {
		defer r.Close()
		f.plan.Ranks = append(f.plan.Ranks, r.Rank)
	}
	if err := f.checkHook(ranks[0].Manifest); err != nil {
		return err
	}
	python, _, err := cbridge.Discover(ctx, cli.PythonFlag(cmd), "torch")
	if err != nil {
		return err
	}
	ran, err := cli.SpawnPlan(ctx, "replay", len(ranks), f.plan, rankCommand, python.Executable, cmd.ErrOrStderr(), nil)
	if err != nil {
		return err
	}
	defer ran.Close()
	r := newReport(f, ranks[0].Manifest)
	for number := range ranks {
		one := &replay.RankReport{}
		if err := ran.Read(number, one); err != nil {
			one = &replay.RankReport{Rank: f.plan.Ranks[number], Failure: &replay.Failure{Message: "it " + ran.HowItEnded(number, "ended without a report"), Peer: !ran.FirstToFail(number)}}
			r.died = true
		}
		r.add(one)
	}
	r.judge(f)
	return f.finish(cmd, r)
}

// checkHook fails, before anything is started, if the recorded hook must be named.
func (f *flags) checkHook(m *trace.Manifest) error {
	if f.plan.Spec.Hook != "" {
		return nil
	}
	if _, err := replay.RecordedHook(f.plan.Folder, m); err != nil {
		return err
	}
	if m.State.Class == "" {
		return nil
	}
	_, err := replay.RecordedState(f.plan.Folder, m)
	return err
}

// join is one rank of a job that a launcher started. Each reads its own rank's recording.
func (f *flags) join(cmd *cobra.Command, world launch.World) error {
	if err := world.Export(); err != nil {
		return err
	}
	if len(f.plan.Ranks) == 0 {
		for rank := range world.Size {
			f.plan.Ranks = append(f.plan.Ranks, rank)
		}
	}
	if len(f.plan.Ranks) != world.Size {
		return cli.UsageError("--ranks names %d ranks, and this is %s", len(f.plan.Ranks), world)
	}
	own, err := trace.OpenRank(f.plan.Folder, f.plan.Ranks[world.Rank])
	if err != nil {
		return err
	}
	defer own.Close()
	if world.Size > own.WorldSize {
		return cli.UsageError("%s has %d ranks, and this is %s", f.plan.Folder, own.WorldSize, world)
	}
	if err := f.checkHook(own.Manifest); err != nil {
		return err
	}
	mine := &replay.RankReport{Rank: own.Rank}
	ctx := cmd.Context()
	defer cli.WaitingFor("the hook call to end (%s)", cli.InC)()
	r := newReport(f, own.Manifest)
	all := []*replay.RankReport{mine}
	group, err := run(ctx, &f.plan, cli.PythonFlag(cmd), mine)
	if err == nil {
		all, err = gather.JSON(ctx, group, mine)
	}
	if err != nil {
		mine.Failure = failureOf(ctx, err)
		launch.Fail(err)
	}
	for _, one := range all {
		r.add(one)
	}
	r.judge(f)
	if world.Rank == 0 || err != nil {
		return f.finish(cmd, r)
	}
	return cli.Exit(r.exitCode())
}

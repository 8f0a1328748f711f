package compare

import (
	"github.com/spf13/cobra"

	"pyhook/internal/cli"
	"pyhook/internal/compare"
	"pyhook/internal/gather"
	"pyhook/launch"
	"pyhook/pyhook"
)

// join is one rank of a job that a launcher started: the hooks run one after another in this
// process, over the network that the job is on. Rank 0 reports. The first hook that fails ends the
// job, since its group is of no more use.
func (o *options) join(cmd *cobra.Command, world launch.World) error {
	ctx := cmd.Context()
	if err := world.Export(); err != nil {
		return err
	}
	defer cli.WaitingFor("the hook call to end (%s)", cli.InC)()
	r := o.newReport(world.Size)
	buckets := make([][]compare.BucketCost, len(o.specs))
	var rt *pyhook.Runtime
	var group *pyhook.TorchGroup
	for i := range o.specs {
		plan := o.plan(i, world.Size)
		var ranks []*compare.RankResult
		answer := supervised(world.Rank, plan, func(doing func(string)) (result *compare.RankResult, err error) {
			if rt == nil {
				if rt, err = cli.StartRuntime(ctx, cli.PythonFlag(cmd)); err != nil {
					return nil, err
				}
				if group, err = join(ctx, rt, world, o.timeout, doing); err != nil {
					return nil, err
				}
			}
			if result, err = compare.Measure(ctx, rt, group, plan, doing); err != nil {
				return nil, err
			}
			doing("waiting for the other ranks' results")
			ranks, err = gather.JSON(ctx, group, result)
			return result, err
		})
		if err := cli.Stopped(ctx, "comparison"); err != nil {
			return err
		}
		h := o.newHookReport(i)
		if f := answer.Failure; f != nil {
			h.Failure = &f.Failure
			r.Hooks = append(r.Hooks, h)
			if f.Peer && world.Rank != 0 { // another rank says why
				return cli.Exit(cli.ExitFailed)
			}
			return o.finishReport(cmd, r, buckets)
		}
		r.Add(&h, ranks)
		buckets[i], r.Buckets = ranks[0].Buckets, len(ranks[0].Buckets)
		r.Hooks = append(r.Hooks, h)
	}
	group.Close()
	if err := rt.Close(); err != nil {
		return err
	}
	if world.Rank != 0 {
		return nil
	}
	return o.finishReport(cmd, r, buckets)
}

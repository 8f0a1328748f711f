package train

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"pyhook/internal/cli"
	"pyhook/internal/demo/trainer"
	"pyhook/launch"
)

const (
	rankCommand = "__train-rank"
	eventMark   = "pyhook event: " // before an Event on rank 0's stdout
)

// RankCommand is one rank, started by spawn.
func RankCommand() *cobra.Command {
	return cli.RankCommand(rankCommand, func(ctx context.Context, r *cli.Rank, cfg *trainer.Config) error {
		report, err := rank(ctx, r.World, r.Python, *cfg, func(e trainer.Event) {
			if event, err := json.Marshal(e); err == nil && r.Rank == 0 { // a loss that is not finite is no JSON
				fmt.Printf("%s%s\n", eventMark, event)
			}
		})
		if err != nil {
			return err
		}
		return r.Answer(report)
	})
}

// spawn starts the ranks, shows their progress and returns rank 0's report.
func (o *Options) spawn(ctx context.Context, show *progress) (*trainer.Report, error) {
	ran, err := cli.SpawnPlan(ctx, "training", o.Ranks, &o.Config, rankCommand, o.Python, show, nil)
	if err != nil {
		return nil, err
	}
	defer ran.Close()
	if ran.Failed != nil {
		return nil, ran.Failed
	}
	report := &trainer.Report{}
	return report, ran.Read(0, report)
}

// Write takes the ranks' lines: rank 0's events, and what the hooks print.
func (p *progress) Write(line []byte) (int, error) {
	var e trainer.Event
	if event, ok := bytes.CutPrefix(line, []byte("[rank 0] "+eventMark)); ok && json.Unmarshal(event, &e) == nil {
		p.step(e)
		return len(line), nil
	}
	return p.Progress.Write(line)
}

// rank trains as one rank.
func rank(ctx context.Context, world launch.World, python string, cfg trainer.Config, on func(trainer.Event)) (report *trainer.Report, err error) {
	defer func() {
		if err != nil {
			launch.Fail(err)
		}
	}()
	if err := launch.DieWithParent(); err != nil {
		return nil, err
	}
	if err := world.Export(); err != nil {
		return nil, err
	}
	rt, err := cli.StartRuntime(ctx, python)
	if err != nil {
		return nil, err
	}
	defer rt.Close()
	return trainer.Run(ctx, rt, world, cfg, on)
}

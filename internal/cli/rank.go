package cli

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"pyhook/launch"
)

// Rank is this process as one of the ranks that SpawnPlan started.
type Rank struct {
	launch.World
	Dir    string // the folder of the ranks' files
	Python string // the interpreter
}

// RankCommand returns the hidden command that is one rank of SpawnPlan's. run gets the plan.
func RankCommand[Plan any](name string, run func(ctx context.Context, r *Rank, plan *Plan) error) *cobra.Command {
	var r Rank
	cmd := &cobra.Command{
		Use: name, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := launch.DieWithParent(); err != nil {
				return err
			}
			if r.World, err = launch.Detect(launch.Options{}); err != nil {
				return err
			}
			var plan Plan
			if err := ReadJSON(filepath.Join(r.Dir, planFile), &plan); err != nil {
				return err
			}
			r.Python = PythonFlag(cmd)
			return run(cmd.Context(), &r, &plan)
		},
	}
	cmd.Flags().StringVar(&r.Dir, "dir", "", "where the plan is")
	return cmd
}

// Answer leaves what the rank found for Ranks.Read: the last answer counts.
func (r *Rank) Answer(value any) error { return WriteJSON(rankFile(r.Dir, r.Rank), value) }

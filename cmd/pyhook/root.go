package main

import (
	"errors"

	"github.com/spf13/cobra"

	"pyhook/internal/cli"
	"pyhook/internal/cli/bench"
	"pyhook/internal/cli/check"
	"pyhook/internal/cli/compare"
	"pyhook/internal/cli/demo"
	"pyhook/internal/cli/doctor"
	"pyhook/internal/cli/replay"
	"pyhook/internal/cli/train"
)

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "pyhook",
		Short: "Run unmodified Python DDP communication hooks from Go",
		Long: `Run unmodified Python DDP communication hooks from Go.

A hook is a Python function (state, bucket) -> Future[Tensor] that PyTorch's
DistributedDataParallel would call: PyTorch's own (fp16, powersgd, ...) or yours.`,
		Example: `  pyhook doctor                       is this machine ready?
  pyhook check powersgd -n 4          run a hook on 4 real ranks and judge it
  pyhook check hooks.py:my_hook       the same for your own
  pyhook replay trace/                run a recorded hook, and compare with PyTorch
  pyhook train --hook fp16 -n 2       train a small network with it`,
		SilenceErrors: true, // main prints them
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,

		SuggestionsMinimumDistance: 2,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
	}
	root.PersistentFlags().String("python", "", "`path` or name of the Python interpreter (default: $PYHOOK_PYTHON,\n"+
		"torchrun's own under torchrun, $VIRTUAL_ENV, $CONDA_PREFIX, python3;\nthe first that has torch)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cli.UsageError("%w", err) })
	root.AddGroup(&cobra.Group{ID: "use", Title: "Commands:"}, &cobra.Group{ID: "more", Title: "More:"})
	root.SetHelpCommandGroupID("more")
	root.SetCompletionCommandGroupID("more")
	root.AddCommand(
		inGroup("use", doctor.Command(currentVersion().Version)),
		inGroup("use", check.Command()),
		inGroup("use", compare.Command()),
		inGroup("use", bench.Command()),
		inGroup("use", replay.Command()),
		inGroup("use", train.Command()),
		inGroup("use", demo.Command()),
		inGroup("more", newVersionCommand()),
	)
	root.AddCommand(bench.RankCommand(), check.RankCommand(), compare.RankCommand(), doctor.ProbeCommand(), doctor.RankCommand(), replay.RankCommand(), train.RankCommand())
	root.AddCommand(helpTopics()...)
	return root
}

func inGroup(id string, cmd *cobra.Command) *cobra.Command {
	cmd.GroupID = id
	return cmd
}

func unknownCommand(cmd *cobra.Command, name string) error {
	err := errors.New("unknown command " + quoted(name))
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		err = errors.New(err.Error() + "\nhint: did you mean " + near[0] + "?")
	}
	return cli.UsageError("%w", err)
}

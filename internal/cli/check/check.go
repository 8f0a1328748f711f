// Package check is pyhook check: it runs a hook on real ranks and judges what it returns.
package check

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pyhook/ddp"
	"pyhook/internal/cli"
	"pyhook/launch"
)

const checkLong = `Run a hook on real ranks and judge whether it keeps DDP's contract:

  - it returns a future of a tensor with all elements of the bucket, finite;
  - all ranks get the same result, bit by bit.

Only these decide the exit code, --max-error if given, and results that depend on
how buckets overlap (see below); a result that is nowhere near the mean is warned
of where no bound was given. The relative error against the exact mean of the
ranks' gradients is reported beside them, with the bytes that went over the wire
and the time.

The ranks are processes on this machine. Started by torchrun, srun or mpirun,
check joins those ranks. Gradients are seeded. Random ones are the worst case for
hooks that compress by low rank: judge powersgd's error by training.

Buckets are reduced as in training, by a ddp.Reducer in the --order given: all
gradients are ready at once, so as many buckets overlap as that order lets. Then
all steps are run again in another order, with a new state, and the results are
compared bit by bit: in serial order, which is NCCL's, if that is not the one that
is judged, and else in ordered, which overlaps more. An order that gives other
results than NCCL's is a failure where it is the one that is judged, and a note
else.

As in DistributedDataParallel the first step has one bucket, and then the buckets
are made anew, as --sizes describes them: hooks that keep something by
bucket.index() break in PyTorch, and so here. --rebuild=false, or one step, leaves
that out.

HOOK is package.module:name, path/file.py:name, a short name of PyTorch's own, a
wrapper around others, fp16_wrapper(powersgd), or what a function or class makes:
'file.py:make(rank=2, compression="fp16")', 'gns.py:Stats()'. An object that has
attach(ddp) or register(ddp) is given a stand-in for the DDP model, and what it
registers is judged. A state or hook that takes parameters= gets them. Where
PyTorch's hook cannot do without a state and none is given, it gets one: powersgd
and batched_powersgd theirs with start_powerSGD_iter=2 (so the last of 3 steps is
compressed), post_localsgd its own with start_localSGD_iter=100.`

type checkFlags struct {
	plan    checkPlan
	ranks   int
	buckets int
	sizes   string
	json    bool
}

// Command returns pyhook check.
func Command() *cobra.Command { return newCommand(runCheck) }

func newCommand(run func(*cobra.Command, *checkFlags) error) *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:   "check HOOK",
		Short: "Run a hook on real ranks and judge it",
		Long:  checkLong,
		Example: `  pyhook check fp16
  pyhook check hooks.py:my_hook -n 4 --sizes '1000,64x32;64x3x3x3'
  pyhook check powersgd --state-arg matrix_approximation_rank=2 --steps 5
  torchrun --no_python --nproc_per_node 2 pyhook check allreduce`,
		Args:              cli.One("hook, such as fp16 or hooks.py:my_hook"),
		ValidArgsFunction: cli.CompleteHook,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.plan.Hook = args[0]
			if err := f.finish(cmd.Flags().Changed("rebuild")); err != nil {
				return err
			}
			return run(cmd, &f)
		},
	}
	flags := cmd.Flags()
	flags.IntVarP(&f.ranks, "ranks", "n", 2, "`N` ranks to start on this machine")
	f.plan.AddStateFlags(flags)
	flags.IntVar(&f.plan.Steps, "steps", 3, "`N` steps")
	flags.IntVar(&f.buckets, "buckets", 0, "`N` buckets a step (default: as many as --sizes describes, or 3)")
	flags.StringVar(&f.sizes, "sizes", "", "`shapes` of each bucket's gradients, as 1000,64x32; buckets divided by ';'")
	flags.StringVar(&f.plan.DType, "dtype", "float32", "the gradients' `dtype`: "+strings.Join(checkDTypes, ", "))
	flags.Uint64Var(&f.plan.Seed, "seed", 1, "`seed` of the gradients")
	flags.DurationVar(&f.plan.Timeout, "timeout", time.Minute, "`time` for each hook call")
	flags.Float64Var(&f.plan.MaxError, "max-error", 0, "fail when the largest relative error is more than `X`")
	flags.StringVar(&f.plan.Backend, "backend", "gloo", "torch.distributed's `backend`")
	f.addMoreFlags(cmd)
	flags.BoolVar(&f.json, "json", false, "print one JSON object (see pyhook help json)")
	registerCompletions(cmd)
	return cmd
}

// addMoreFlags adds those that change what is judged.
func (f *checkFlags) addMoreFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	cli.AddOrderFlag(cmd, &f.plan.Order, "the `order` of the buckets that is judged, as ddp.Options has it", ddp.OrderNames())
	flags.BoolVar(&f.plan.Rebuild, "rebuild", true, "one bucket in the first step, and the buckets made anew after it, as DDP's")
	flags.BoolVar(&f.plan.RanksMayDiffer, "ranks-may-differ", false, "do not judge whether the ranks' results are alike: local SGD's differ by design")
}

func registerCompletions(cmd *cobra.Command) {
	// An error would mean that there is no such flag: the tests complete each.
	_ = cmd.RegisterFlagCompletionFunc("state", cli.CompleteState)
	_ = cmd.RegisterFlagCompletionFunc("dtype", cobra.FixedCompletions(checkDTypes, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("backend", cobra.FixedCompletions([]string{"gloo", "mpi", "ucc"}, cobra.ShellCompDirectiveNoFileComp))
}

// finish makes the plan of the flags.
func (f *checkFlags) finish(rebuildGiven bool) error {
	p := &f.plan
	if p.Rebuild && p.Steps == 1 {
		if rebuildGiven {
			return cli.UsageError("--rebuild with --steps 1: the buckets are made anew after the first step")
		}
		p.Rebuild = false
	}
	var err error
	if f.buckets < 0 {
		return cli.UsageError("--buckets %d: at least 1 is needed", f.buckets)
	}
	if p.Buckets, err = parseSizes(f.sizes, f.buckets); err != nil {
		return cli.UsageError("%w", err)
	}
	p.Spec = p.WithDefaults()
	if p.State == "" && len(p.StateArgs) > 0 {
		return cli.UsageError("--state-arg without --state: %s takes no state of its own", p.Hook)
	}
	if _, err := p.Args(); err != nil {
		return cli.UsageError("%w", err)
	}
	if f.ranks < 1 {
		return cli.UsageError("-n %d: at least 1 rank is needed", f.ranks)
	}
	return p.validate()
}

// runCheck joins the ranks that a launcher started, or starts its own.
func runCheck(cmd *cobra.Command, f *checkFlags) error {
	world, err := launch.Detect(launch.Options{})
	if err != nil {
		return cli.UsageError("%w", err)
	}
	if world.Source == launch.SourceSingle {
		return spawnCheck(cmd, f)
	}
	if cmd.Flags().Changed("ranks") && f.ranks != world.Size {
		return cli.UsageError("-n %d: but this is %s\nhint: leave -n out under a launcher, or unset its variables", f.ranks, world)
	}
	return joinCheck(cmd, f, world)
}

// finishCheck prints the report and gives the exit code.
func finishCheck(cmd *cobra.Command, f *checkFlags, r *checkReport) error {
	if err := cli.Print(cmd, f.json, r, r.print); err != nil {
		return err
	}
	return cli.Exit(r.exitCode())
}

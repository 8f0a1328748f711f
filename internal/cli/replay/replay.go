// Package replay is pyhook replay: it runs a recorded hook from Go and compares it with PyTorch.
package replay

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"pyhook/ddp"
	"pyhook/internal/cli"
	"pyhook/internal/replay"
	"pyhook/internal/trace"
	"pyhook/launch"
)

const long = `Run a recorded hook from Go, on as many ranks, with the recorded buckets, state and
inputs, and compare its results with PyTorch's bit by bit.

A recording is the folder that pyhook.record wrote in a PyTorch job:

  model.register_comm_hook(*pyhook.record(state, hook, "trace/"))

The ranks are processes on this machine. Started by torchrun, srun or mpirun, replay
joins those ranks; each reads trace/rank<N> of its own. They reduce over --backend,
which is real: nothing of the recorded communication is used but its results.

PyTorch's own hooks run because the recording names them. Any other hook, and the
class of its state, run only if you name them by --hook and --state: a recording is a
file that anybody may have written, and reading it runs nothing. The recorded state is
put into the one that --state makes, whatever arguments that has in brackets, unless
--state-arg is given: that makes a state of your own. With --hook another hook runs
on the recorded inputs, such as go:fp16, and the differences to the recorded results
are shown.

--ranks replays some of the recorded ranks in a process group of that size, where
this machine cannot hold all. The hook then averages over these ranks alone, so its
results are not the recorded ones: it shows that the hook runs, and how it is off.

The exit code is 0 only if the bits of all recorded results are the same, or with
--tolerance the largest error is within it.`

type flags struct {
	plan      replay.Plan
	tolerance float64
	json      bool
	program   bool
}

// Command returns pyhook replay.
func Command() *cobra.Command {
	f := &flags{plan: replay.Plan{Order: ddp.OrderAuto}}
	cmd := &cobra.Command{
		Use:   "replay TRACE",
		Short: "Run a recorded hook from Go and compare it with PyTorch bit by bit",
		Long:  long,
		Example: `  pyhook replay trace/
  pyhook replay trace/ --hook my_hooks.py:top_k --state my_hooks.py:TopK
  pyhook replay trace/ --hook go:fp16 --tolerance 1e-3
  pyhook replay trace/ --go > trainer.go`,
		Args: cli.One("folder, which pyhook.record wrote"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.plan.Folder = args[0]
			return f.run(cmd)
		},
	}
	set := cmd.Flags()
	set.StringVar(&f.plan.Spec.Hook, "hook", "", "run this `hook` in place of the recorded one")
	f.plan.Spec.AddStateFlags(set)
	set.IntSliceVar(&f.plan.Ranks, "ranks", nil, "replay these recorded `ranks` alone, such as 0,1")
	set.StringVar(&f.plan.Backend, "backend", "gloo", "torch.distributed's `backend`")
	cli.AddOrderFlag(cmd, &f.plan.Order, "the `order` of the buckets, as ddp.Options has it", ddp.OrderNames())
	set.DurationVar(&f.plan.Timeout, "timeout", 2*time.Minute, "`time` for each step")
	set.Float64Var(&f.tolerance, "tolerance", 0, "accept errors up to `X` of the largest recorded element")
	set.BoolVar(&f.json, "json", false, "print one JSON object (see pyhook help json)")
	set.BoolVar(&f.program, "go", false, "print a Go program that sets up the same layout, hook and state, and run nothing")
	_ = cmd.RegisterFlagCompletionFunc("hook", cli.CompleteHookFlag)
	_ = cmd.RegisterFlagCompletionFunc("state", cli.CompleteState)
	return cmd
}

func (f *flags) run(cmd *cobra.Command) error {
	if !(f.tolerance >= 0) {
		return cli.UsageError("--tolerance %v: it must not be negative", f.tolerance)
	}
	if f.plan.Timeout <= 0 {
		return cli.UsageError("--timeout %s: it must be more than nothing", f.plan.Timeout)
	}
	if f.plan.Backend == "nccl" {
		return cli.UsageError("--backend nccl: replay has its buckets on the CPU, where nccl does not work")
	}
	if f.plan.Spec.Hook == "" && f.plan.Spec.State != "" {
		return cli.UsageError("--state without --hook: name both")
	}
	if f.plan.Spec.Hook == "" && len(f.plan.Spec.StateArgs) > 0 {
		return cli.UsageError("--state-arg without --hook: name both")
	}
	if _, err := f.plan.Spec.Args(); err != nil {
		return cli.UsageError("%w", err)
	}
	seen := map[int]bool{}
	for _, rank := range f.plan.Ranks {
		if rank < 0 || seen[rank] {
			return cli.UsageError("--ranks: %d is negative or there twice", rank)
		}
		seen[rank] = true
	}
	if f.program {
		return f.printProgram(cmd)
	}
	world, err := launch.Detect(launch.Options{})
	if err != nil {
		return cli.UsageError("%w", err)
	}
	if world.Source == launch.SourceSingle {
		return f.spawn(cmd)
	}
	return f.join(cmd, world)
}

// printProgram prints the Go program of --go.
func (f *flags) printProgram(cmd *cobra.Command) error {
	first := 0
	if len(f.plan.Ranks) > 0 {
		first = f.plan.Ranks[0]
	}
	rank, err := trace.OpenRank(f.plan.Folder, first)
	if err != nil {
		return err
	}
	defer rank.Close()
	text, err := replay.Program(f.plan.Folder, rank.Manifest, f.plan.Spec)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), text)
	return err
}

// finish prints the report and gives the exit code.
func (f *flags) finish(cmd *cobra.Command, r *Report) error {
	if err := cli.Print(cmd, f.json, r, r.print); err != nil {
		return err
	}
	return cli.Exit(r.exitCode())
}

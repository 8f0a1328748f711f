// Package train is pyhook train: it trains a small network on ranks that reduce their gradients by
// a hook.
package train

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"pyhook/ddp"
	"pyhook/internal/cli"
	"pyhook/internal/demo/lossplot"
	"pyhook/internal/demo/trainer"
	"pyhook/internal/report"
	"pyhook/launch"
)

// Options are the flags of pyhook train. pyhook demo sets those that have a capital letter.
type Options struct {
	trainer.Config
	Ranks  int
	Python string // path or name of the interpreter; "" searches
	JSON   bool

	checkpoint string
	plot       string
}

// Command returns pyhook train.
func Command() *cobra.Command {
	o := &Options{Config: trainer.Defaults()}
	cmd := &cobra.Command{
		Use:   "train",
		Short: "Train a small network in plain Go on N ranks, its gradients reduced by a Python hook",
		Long: `Train a fully connected network, written in Go, on 1,797 handwritten digits.
Each rank computes gradients in Go memory; the hook reduces them over a
torch.distributed process group; Go takes the optimiser's step.

By itself the command starts -n ranks on this machine. Started by torchrun,
srun or mpirun it is one rank of that job, and -n must not be given:
  torchrun --no_python --nproc_per_node 2 pyhook train --hook fp16
With --checkpoint, a job that its launcher restarts goes on where it was.

--hook is one of PyTorch's by short name (allreduce, fp16, powersgd, ...),
package.module:name, path/file.py:name, a wrapper around one, or go:allreduce and
go:fp16 for the hooks written in Go. PowerSGD hooks get a PowerSGDState with
start_powerSGD_iter=2 unless --state or --state-arg say otherwise.`,
		Example: `  pyhook train -n 2 --hook fp16
  pyhook train -n 4 --hook powersgd --state-arg matrix_approximation_rank=2
  pyhook train -n 2 --hook my_hooks.py:top_k --state my_hooks.py:TopK --state-arg k=0.01
  pyhook train -n 2 --hook powersgd --epochs 1 --trace out/trace.json
  pyhook train --hook allreduce --save out/digits.ckpt --plot out/loss.png --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Python = cli.PythonFlag(cmd)
			return o.run(cmd.Context(), cmd.Flags().Changed("ranks"), cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.IntVarP(&o.Ranks, "ranks", "n", 2, "`N` ranks to start on this machine")
	flags.StringVar(&o.Hook.Hook, "hook", o.Hook.Hook, "the communication `hook`")
	o.Hook.AddStateFlags(flags)
	o.AddTrainingFlags(cmd)
	flags.StringVar(&o.Save, "save", "", "write a checkpoint to `file` after each epoch")
	flags.StringVar(&o.Resume, "resume", "", "go on from the checkpoint in `file`")
	flags.StringVar(&o.checkpoint, "checkpoint", "", "--save to `file`, and --resume from it if it is there: for jobs that are restarted")
	cmd.MarkFlagsMutuallyExclusive("checkpoint", "save")
	cmd.MarkFlagsMutuallyExclusive("checkpoint", "resume")
	flags.StringVar(&o.plot, "plot", "", "draw the loss to a PNG `file`")
	flags.StringVar(&o.Trace, "trace", "", "write what each rank did and when to `file`, for ui.perfetto.dev or chrome://tracing")
	flags.BoolVar(&o.JSON, "json", false, "print the result as one JSON object")
	_ = cmd.RegisterFlagCompletionFunc("hook", cli.CompleteHookFlag)
	_ = cmd.RegisterFlagCompletionFunc("state", cli.CompleteState)
	return cmd
}

// AddTrainingFlags adds what train and demo share.
func (o *Options) AddTrainingFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVar(&o.Epochs, "epochs", o.Epochs, "passes over the training digits")
	flags.IntVar(&o.Batch, "batch", o.Batch, "digits a step, over all ranks")
	flags.Float64Var(&o.LR, "lr", o.LR, "learning rate")
	flags.Float64Var(&o.Momentum, "momentum", o.Momentum, "momentum of SGD")
	flags.IntSliceVar(&o.Hidden, "hidden", o.Hidden, "`sizes` of the hidden layers")
	flags.Uint64Var(&o.Seed, "seed", o.Seed, "seed of the weights, the split and the batches")
	cli.AddOrderFlag(cmd, &o.Order, "the `order` of the buckets, as ddp.Options has it", ddp.OrderNames())
	flags.Float64Var(&o.BucketCapMB, "bucket-cap-mb", o.BucketCapMB, "bucket size in `MiB`, as DDP's bucket_cap_mb; small, as the network is")
	flags.StringVar(&o.Backend, "backend", o.Backend, "process group `backend`: gloo, nccl, mpi, ucc")
	flags.DurationVar(&o.Timeout, "timeout", o.Timeout, "of the rendezvous and of each collective")
}

// run is a rank of a job that a launcher started, or starts the ranks itself.
func (o *Options) run(ctx context.Context, ranksGiven bool, out io.Writer) error {
	world, err := launch.Detect(launch.Options{})
	if err != nil {
		return cli.UsageError("%w", err)
	}
	if o.checkpoint != "" {
		o.Save = o.checkpoint
		// No rank can be through its first epoch before all have looked.
		if _, err := os.Stat(o.checkpoint); err == nil {
			o.Resume = o.checkpoint
		}
	}
	if world.Source != launch.SourceSingle {
		if ranksGiven {
			return cli.UsageError("this is %s: -n is for starting ranks without a launcher", world)
		}
		return o.join(ctx, world, out)
	}
	if world.Note != "" {
		fmt.Fprintln(os.Stderr, "note:", world.Note)
	}
	report, err := o.RunLocal(ctx)
	if err != nil {
		return err
	}
	return o.finish(report, out)
}

// RunLocal starts the ranks on this machine and returns rank 0's report.
func (o *Options) RunLocal(ctx context.Context) (*trainer.Report, error) {
	if o.Ranks < 1 {
		return nil, cli.UsageError("-n %d: at least 1", o.Ranks)
	}
	if err := o.Check(o.Ranks); err != nil {
		return nil, cli.UsageError("%w", err)
	}
	show := newProgress(os.Stderr, o.Hook.Hook)
	defer show.Clear()
	return o.spawn(ctx, show)
}

// join is one rank of a job that a launcher started. Rank 0 prints to the user, also which launcher
// it was found by: one that was taken for another shows in nothing but a hang.
func (o *Options) join(ctx context.Context, world launch.World, out io.Writer) error {
	terminal := io.Writer(io.Discard)
	if world.Rank == 0 {
		fmt.Fprintln(os.Stderr, world)
		terminal = os.Stderr
	}
	show := newProgress(terminal, o.Hook.Hook)
	defer cli.WaitingFor("this step's hook calls to end (%s)", cli.InC)()
	report, err := rank(ctx, world, o.Python, o.Config, show.step)
	show.Clear()
	if err != nil || world.Rank != 0 {
		return err
	}
	return o.finish(report, out)
}

// finish shows the result.
func (o *Options) finish(result *trainer.Report, out io.Writer) error {
	if o.plot != "" {
		if err := PlotLoss(o.plot, []*trainer.Report{result}); err != nil {
			return err
		}
	}
	if o.JSON {
		return report.JSON(out, result)
	}
	PrintReports(out, []*trainer.Report{result})
	if o.Save != "" {
		fmt.Fprintln(out, "checkpoint:", o.Save)
	}
	if o.plot != "" {
		fmt.Fprintln(out, "loss plot: ", o.plot)
	}
	if o.Trace != "" {
		fmt.Fprintln(out, "timeline:  ", o.Trace, "(open it in ui.perfetto.dev)")
	}
	return nil
}

// PlotLoss draws the loss of each run to a PNG file, whose folder it makes.
func PlotLoss(path string, reports []*trainer.Report) error {
	var series []lossplot.Series
	for _, r := range reports {
		series = append(series, lossplot.Series{Name: r.Hook, First: r.FirstStep + 1, Loss: r.Loss})
	}
	return lossplot.Write(path, fmt.Sprintf("Handwritten digits, %d ranks: training loss by communication hook", reports[0].Size), series)
}

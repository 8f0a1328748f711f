// Package compare is pyhook compare: it runs hooks on a model's gradients and compares them.
package compare

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pyhook/internal/cli"
	"pyhook/internal/compare"
	"pyhook/internal/hookspec"
	"pyhook/internal/report"
	"pyhook/launch"
)

const compareLong = `Run hooks on a model's gradients, on real ranks, and compare what each one sends,
computes, keeps in memory and gets wrong; and predict how long a step's reduction
takes on networks that are not here.

HOOK is as in pyhook check, with the keyword arguments of its state behind it:
  powersgd,matrix_approximation_rank=4
  hooks.py:top_k,state=hooks.py:TopK,k=0.01
PowerSGD and post-local SGD get the states that check gives them. Each hook runs
in processes of its own, so that one that fails leaves the others' figures alone;
the exit code is then 1.

Measured, on -n ranks of this machine over gloo (or on the ranks of a launcher,
over their network), a bucket at a time, the median of the second half of the
steps:
  sent          TCP payload that a rank sent in a step, as the kernel counts it
  hook          time in the hook in which none of its collectives was under way
  collectives   time in which one was
  error         |result - mean| / |mean| over the whole model, against the exact
                mean of the ranks' gradients in float64
  accumulated   the same of the sums over all steps so far: error feedback makes it
                fall from step to step, a bias keeps it up. Of models with more than
                4 Mi elements every k-th element is summed; the report says k
  cosine        of the angle between result and mean
  state         bytes of the tensors that the hook's state holds on a rank

Gradients: --trace has those of your own job, which pyhook.record wrote: as many
ranks, its buckets, and new states. --model digits trains a small network on
handwritten digits, and has its gradients. The other models are shapes;
--gradients says how their gradients are drawn: lowrank (as those of a network in
training, mostly in few directions), normal (the worst case for compression) or
heavy (few large elements). FILE.json has
{"name": "mine", "parameters": [{"name": "fc.weight", "shape": [10, 64]}]}.

Predicted, for each --net and each number of --ranks: the time to reduce a step's
buckets one after another. The model has two constants, which are measured here:
  messages x (software + latency) + the longer of bytes on the link and in software
  + half of the shorter one
for each bucket's collectives, as a ring has them; the hook's own work is as
measured here.
With --passes, the time of your forward and backward passes, also the length of a
step in which the reduction overlaps the backward pass. docs/choosing-a-hook.md
says how good that is, and where it is not.`

// options are the flags.
type options struct {
	specs     []hookspec.Spec
	names     []string
	model     string
	trace     string
	gradients string
	capMB     float64
	local     int
	ranks     []int
	nets      []string
	latency   time.Duration
	passes    time.Duration
	steps     int
	seed      uint64
	timeout   time.Duration
	train     bool
	json      bool
	plot      string
	html      string

	networks []compare.Network
	loaded   *compare.Model
}

// Command returns pyhook compare.
func Command() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "compare HOOK...",
		Short: "Compare hooks on a model's gradients, and predict them on other networks",
		Long:  compareLong,
		Example: `  pyhook compare allreduce fp16 powersgd
  pyhook compare allreduce powersgd,matrix_approximation_rank=4 --model bert-base --net 10Gbit --ranks 16,128
  pyhook compare allreduce fp16 powersgd --trace trace/
  pyhook compare fp16 hooks.py:my_hook --model digits --train --html out/hooks.html
  torchrun --no_python --nproc_per_node 2 pyhook compare allreduce fp16`,
		Args: cobra.ArbitraryArgs,
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			return cli.CompleteHook(cmd, nil, toComplete)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.finish(args, cmd.Flags().Changed); err != nil {
				return err
			}
			return o.run(cmd)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.model, "model", "resnet50", "the `model`: "+strings.Join(compare.ModelNames(), ", ")+" or FILE.json")
	flags.StringVar(&o.trace, "trace", "", "compare on the recording in this `folder`, which pyhook.record wrote")
	flags.StringVar(&o.gradients, "gradients", "lowrank", "how the gradients of shapes are drawn: "+strings.Join(compare.DistributionNames(), ", "))
	flags.Float64Var(&o.capMB, "bucket-cap-mb", 25, "bucket size in `MiB`, as DDP's bucket_cap_mb; the first bucket has 1 MiB at most")
	flags.IntVarP(&o.local, "local", "n", 2, "`N` ranks to measure with on this machine")
	flags.IntSliceVar(&o.ranks, "ranks", []int{2, 8, 64, 1024}, "`numbers` of ranks to predict for")
	flags.StringSliceVar(&o.nets, "net", []string{"1Gbit", "10Gbit", "100Gbit"}, "`links` of each rank to predict for; 1Gbit@200us has a latency of its own")
	flags.DurationVar(&o.latency, "latency", 50*time.Microsecond, "`time` of a message on the networks, in one direction")
	flags.DurationVar(&o.passes, "passes", 0, "`time` of the forward and backward passes, which the reduction overlaps")
	flags.IntVar(&o.steps, "steps", 10, "`N` steps")
	flags.Uint64Var(&o.seed, "seed", 1, "`seed` of the gradients")
	flags.DurationVar(&o.timeout, "timeout", 2*time.Minute, "`time` for each hook call")
	flags.BoolVar(&o.train, "train", false, "also train the demo's network with each hook, as pyhook train does")
	flags.BoolVar(&o.json, "json", false, "print one JSON object (see pyhook help json)")
	flags.StringVar(&o.plot, "plot", "", "draw PNG files in this `folder`")
	flags.StringVar(&o.html, "html", "", "write a page with charts to this `file`")
	complete := func(flag string, names []string) {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(names, cobra.ShellCompDirectiveDefault))
	}
	complete("model", compare.ModelNames())
	complete("gradients", compare.DistributionNames())
	return cmd
}

// finish checks the flags before anything is started.
func (o *options) finish(args []string, changed func(flag string) bool) (err error) {
	o.names = args
	if o.specs, err = parseHooks(args); err != nil {
		return err
	}
	if o.trace != "" {
		if err := o.finishTrace(changed); err != nil {
			return err
		}
	}
	switch {
	case o.steps < 2:
		return cli.UsageError("--steps %d: at least 2, as the figures are of the second half", o.steps)
	case o.local < 2:
		return cli.UsageError("-n %d: at least 2 ranks are needed: one rank sends nothing, and its gradient is the mean", o.local)
	case o.latency < 0:
		return cli.UsageError("--latency %s: must not be negative", o.latency)
	case o.passes < 0:
		return cli.UsageError("--passes %s: must not be negative", o.passes)
	case o.timeout <= 0:
		return cli.UsageError("--timeout %s: it must be more than nothing", o.timeout)
	case !(o.capMB > 0 && o.capMB <= 1<<20):
		return cli.UsageError("--bucket-cap-mb %g: must be above 0, and at most 2^20", o.capMB)
	}
	for _, n := range o.ranks {
		if n < 2 || n > 1<<20 {
			return cli.UsageError("--ranks %d: predictions are for 2 to 2^20 ranks", n)
		}
	}
	slices.Sort(o.ranks)
	o.ranks = slices.Compact(o.ranks)
	for _, text := range o.nets {
		network, err := compare.ParseNetwork(text, o.latency)
		if err != nil {
			return cli.UsageError("--net: %w", err)
		}
		if slices.Contains(o.networks, network) {
			return cli.UsageError("--net: %s is there twice", text)
		}
		o.networks = append(o.networks, network)
	}
	if !slices.Contains(compare.DistributionNames(), o.gradients) {
		return cli.UsageError("--gradients %s: there are %s", o.gradients, strings.Join(compare.DistributionNames(), ", "))
	}
	if o.trace != "" {
		return nil
	}
	if o.loaded, err = compare.LoadModel(o.model); err != nil {
		return cli.UsageError("--model: %w", err)
	}
	if strings.HasSuffix(o.model, ".json") {
		if o.model, err = filepath.Abs(o.model); err != nil {
			return err
		}
	}
	return nil
}

// finishTrace takes ranks and steps from the recording where they were not given.
func (o *options) finishTrace(changed func(flag string) bool) error {
	for _, flag := range []string{"model", "gradients", "bucket-cap-mb", "seed"} {
		if changed(flag) {
			return cli.UsageError("--%s with --trace: a recording has its own", flag)
		}
	}
	recording, err := compare.OpenRecording(o.trace)
	if err != nil {
		return err
	}
	defer recording.Close()
	o.loaded = recording.Model()
	if !changed("local") {
		o.local = recording.Ranks()
	}
	if !changed("steps") {
		o.steps = min(o.steps, recording.Steps())
	}
	switch {
	case recording.Ranks() < 2:
		return cli.UsageError("%s was recorded on one rank: at least 2 are needed, as one rank's gradient is the mean", o.trace)
	case o.local > recording.Ranks():
		return cli.UsageError("-n %d: %s was recorded on %d ranks", o.local, o.trace, recording.Ranks())
	case recording.Steps() < 2:
		return cli.UsageError("%s has %s of the same buckets on all ranks, and at least 2 are needed", o.trace, report.Count(recording.Steps(), "step"))
	case o.steps > recording.Steps():
		return cli.UsageError("--steps %d: %s has %d steps of the same buckets on all ranks", o.steps, o.trace, recording.Steps())
	}
	if o.trace, err = filepath.Abs(o.trace); err != nil {
		return err
	}
	return nil
}

// plan is what the ranks do for one hook.
func (o *options) plan(i, ranks int) *compare.Plan {
	return &compare.Plan{Hook: o.specs[i], Steps: o.steps, Timeout: o.timeout,
		Source: compare.SourceConfig{Trace: o.trace, Model: o.model, Gradients: o.gradients, CapMB: o.capMB, Seed: o.seed, Ranks: ranks}}
}

// run joins the ranks that a launcher started, or starts its own.
func (o *options) run(cmd *cobra.Command) error {
	world, err := launch.Detect(launch.Options{})
	if err != nil {
		return cli.UsageError("%w", err)
	}
	if world.Rank == 0 {
		if err := o.checkOutputs(); err != nil {
			return err
		}
	}
	if world.Source == launch.SourceSingle {
		return o.spawn(cmd)
	}
	switch {
	case cmd.Flags().Changed("local"):
		return cli.UsageError("-n %d: but this is %s\nhint: leave -n out under a launcher, or unset its variables", o.local, world)
	case world.Size < 2:
		return cli.UsageError("this is %s: at least 2 ranks are needed", world)
	case o.train:
		return cli.UsageError("--train starts ranks on this machine, and this is %s\nhint: pyhook train under the launcher", world)
	}
	return o.join(cmd, world)
}

// newReport is the report before any hook has run.
func (o *options) newReport(ranks int) *compare.Report {
	r := &compare.Report{Model: o.loaded.Name, Parameters: len(o.loaded.Parameters), Elements: o.loaded.Elements(), Ranks: ranks,
		Steps: o.steps, Seed: o.seed, Networks: o.networks, Passes: o.passes.Seconds(), Hooks: []compare.HookReport{}}
	return r
}

// newHookReport is a hook's before it has run.
func (o *options) newHookReport(i int) compare.HookReport {
	return compare.HookReport{Hook: o.names[i], State: o.specs[i].State, StateArgs: append([]string{}, o.specs[i].StateArgs...),
		BytesByStep: []float64{}, SecondsByStep: []float64{}, CollectiveByStep: []float64{}, Deviations: []compare.Deviation{}, Collectives: []compare.Tally{}, Predicted: []compare.Prediction{}, Warnings: []string{}}
}

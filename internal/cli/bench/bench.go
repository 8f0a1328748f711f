// Package bench is pyhook bench: it times hook calls from Go.
package bench

import (
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"pyhook/ddp"
	"pyhook/internal/cli"
	"pyhook/internal/hookbench"
	"pyhook/internal/hookspec"
	"pyhook/internal/report"
)

const benchLong = `Time one call of a hook from Go: RunHook, the future's Wait, ParseHookResult.

Beside it, in the same process and in turns, so that a machine that changes its
speed changes it for all:

  c++      the same by torch's own c10d::PythonCommHook, if a C++ compiler and
           torch's headers are there (pip's torch has them; Debian's needs
           libtorch-dev pybind11-dev python3-dev)
  python   hook(state, bucket).wait() in a Python loop

With --order serial or ordered the Go side calls the hook as ddp.Reducer does in
that order: the hook's futures are a chain, which is drained, callbacks and all, on
the calling thread. For one bucket these two are the same. Torch's own futures are
for --order overlapped, which is as C++ does it.

ratio is Go over C++, the median of neighbouring blocks of calls. With -n 2 and
more the hook really communicates, over gloo on this machine.

HOOK is as in pyhook check, but for go:allreduce and go:fp16.`

// benchRankCommand is what a rank of a bench is started with.
const benchRankCommand = "__bench-rank"

type benchFlags struct {
	spec   hookspec.Spec
	ranks  int
	sizes  []string
	params []int
	scale  float64
	order  ddp.Order
	cache  string
	json   bool
}

// Command returns pyhook bench.
func Command() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench HOOK",
		Short: "Time a hook's call from Go, beside C++ and Python",
		Long:  benchLong,
		Example: `  pyhook bench noop
  pyhook bench my_hooks.py:my_hook --sizes 64KiB,25MiB --params 1,64
  pyhook bench powersgd -n 2 --state-arg matrix_approximation_rank=2 --json`,
		Args:              cli.One("hook, such as fp16 or hooks.py:my_hook"),
		ValidArgsFunction: cli.CompleteHook,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.spec.Hook = args[0]
			return f.run(cmd)
		},
	}
	flags := cmd.Flags()
	flags.IntVarP(&f.ranks, "ranks", "n", 1, "`N` ranks on this machine")
	f.spec.AddStateFlags(flags)
	flags.StringSliceVar(&f.sizes, "sizes", []string{"4KiB", "1MiB", "25MiB"}, "`sizes` of the bucket: bytes, or with KiB, MiB")
	flags.IntSliceVar(&f.params, "params", []int{1, 64}, "`numbers` of parameters in the bucket")
	flags.Float64Var(&f.scale, "scale", 1, "times as many calls")
	f.order = ddp.OrderOverlapped
	cli.AddOrderFlag(cmd, &f.order, "how the Go side calls the hook, as ddp.Reducer does in this `order` of buckets", []string{"serial", "ordered", "overlapped"})
	flags.StringVar(&f.cache, "cache", "", "`folder` where the C++ side is built and kept (default: pyhook/bench in the user's cache)")
	flags.BoolVar(&f.json, "json", false, "print the rows as JSON")
	_ = cmd.RegisterFlagCompletionFunc("state", cli.CompleteState)
	return cmd
}

// RankCommand returns the hidden command that is one rank of a benchmark.
func RankCommand() *cobra.Command {
	return &cobra.Command{
		Use: benchRankCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return hookbench.Rank(cmd.Context()) },
	}
}

func (f *benchFlags) run(cmd *cobra.Command) error {
	cases, err := f.cases()
	if err != nil {
		return err
	}
	folder, err := f.folder()
	if err != nil {
		return err
	}
	cwd, err := os.Getwd()
	if err != nil {
		return err
	}
	stderr := cmd.ErrOrStderr()
	defer cli.WaitingFor("the ranks to end, at most 3 s (%s)", cli.InC)()
	rows, noCpp, err := hookbench.Run(cmd.Context(), hookbench.Options{
		Cases: cases, Python: cli.PythonFlag(cmd), Path: []string{cwd}, Scale: f.scale, Folder: folder,
		RankArgs: []string{benchRankCommand},
		Say:      func(format string, args ...any) { fmt.Fprintf(stderr, format+"\n", args...) },
	})
	if err := cli.Stopped(cmd.Context(), "benchmark"); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	if noCpp != nil {
		fmt.Fprintln(stderr, "without a C++ side:", noCpp)
	}
	return f.print(cmd.OutOrStdout(), rows)
}

func (f *benchFlags) print(out io.Writer, rows []hookbench.Row) error {
	if !f.json {
		hookbench.PrintTable(out, rows)
		return nil
	}
	return report.JSON(out, rows)
}

func (f *benchFlags) cases() ([]hookbench.Case, error) {
	if strings.HasPrefix(f.spec.Hook, "go:") {
		return nil, cli.UsageError("%s is written in Go: bench times calls of Python hooks", f.spec.Hook)
	}
	if f.ranks < 1 {
		return nil, cli.UsageError("-n %d: at least 1", f.ranks)
	}
	if f.order == ddp.OrderAuto {
		return nil, cli.UsageError("--order auto: it is the Reducer's to choose; bench times serial and ordered calls, or overlapped ones")
	}
	if !(f.scale > 0) || math.IsInf(f.scale, 1) {
		return nil, cli.UsageError("--scale %g: must be a number above 0", f.scale)
	}
	spec := f.spec.WithDefaults()
	if _, err := spec.Args(); err != nil {
		return nil, cli.UsageError("%w", err)
	}
	if spec.State == "" && len(spec.StateArgs) > 0 {
		return nil, cli.UsageError("--state-arg without --state: %s takes no state of its own", spec.Hook)
	}
	var sizes []int64
	for _, text := range f.sizes {
		n, err := parseBytes(text)
		if err != nil {
			return nil, cli.UsageError("--sizes: %w", err)
		}
		sizes = append(sizes, n)
	}
	for _, n := range f.params {
		if n < 1 {
			return nil, cli.UsageError("--params %d: at least 1", n)
		}
	}
	cases := hookbench.Cases(spec, sizes, f.params, f.ranks)
	for i := range cases {
		cases[i].Chained = f.order == ddp.OrderSerial || f.order == ddp.OrderOrdered
	}
	return cases, nil
}

// parseBytes reads 4096, 4KiB, 25MiB.
func parseBytes(text string) (int64, error) {
	number, unit := text, int64(1)
	for suffix, n := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(text, suffix); ok {
			number, unit = rest, n
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n < 1 || n > (1<<40)/unit {
		return 0, fmt.Errorf("invalid size %q: write bytes, 4KiB or 25MiB", text)
	}
	return n * unit, nil
}

// folder is where the C++ side is built.
func (f *benchFlags) folder() (string, error) {
	if f.cache != "" {
		return f.cache, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("where to build the C++ side: %w; give --cache", err)
	}
	return filepath.Join(cache, "pyhook", "bench"), nil
}

// Package demo is pyhook demo: it trains with several hooks in turn and compares them.
package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"pyhook/internal/cli"
	"pyhook/internal/cli/train"
	"pyhook/internal/demo/trainer"
	"pyhook/internal/hookspec"
)

// demoHooks are trained in turn. PowerSGD compresses from step 10, with error
// feedback and warm start, and rank 4: at rank 1 this small network learns
// slower.
var demoHooks = []hookspec.Spec{
	{Hook: "allreduce"},
	{Hook: "fp16"},
	{Hook: "powersgd", State: "powersgd", StateArgs: []string{"start_powerSGD_iter=10", "matrix_approximation_rank=4"}},
}

// demoAccuracy is what every hook must reach.
const demoAccuracy = 0.95

type demoOptions struct {
	train.Options
	out string
}

// demoRow is a line of summary.json.
type demoRow struct {
	Hook             string  `json:"hook"`
	Accuracy         float64 `json:"accuracy"`
	WeightsIdentical bool    `json:"weights_identical"`
	Steps            int     `json:"steps"`
	BytesOnWire      uint64  `json:"bytes_on_wire"`
	MsPerStep        float64 `json:"ms_per_step"`
}

// Command returns pyhook demo.
func Command() *cobra.Command {
	o := &demoOptions{Options: train.Options{Config: trainer.Defaults()}}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Train with allreduce, fp16 compression and PowerSGD in turn, and compare them",
		Long: `Train the network of pyhook train three times on the same data and seed: with
PyTorch's allreduce_hook, fp16_compress_hook and powerSGD_hook, unmodified.

Writes summary.json (accuracy, whether the weights are bitwise alike on all
ranks, bytes on the wire, time a step) and loss.png to --out. Exits with 1 if a
hook stays below 0.95 test accuracy or the ranks' weights differ.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Python = cli.PythonFlag(cmd)
			return o.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.IntVarP(&o.Ranks, "ranks", "n", 2, "`N` ranks to start on this machine")
	o.AddTrainingFlags(cmd)
	flags.StringVar(&o.out, "out", "out/demo", "`folder` for summary.json and loss.png")
	flags.BoolVar(&o.JSON, "json", false, "print summary.json")
	return cmd
}

func (o *demoOptions) run(ctx context.Context, out io.Writer) error {
	var reports []*trainer.Report
	for _, hook := range demoHooks {
		one := o.Options
		one.Hook = hook
		report, err := one.RunLocal(ctx)
		if err != nil {
			return err
		}
		reports = append(reports, report)
	}
	if err := os.MkdirAll(o.out, 0o777); err != nil {
		return err
	}
	summary, err := json.MarshalIndent(demoRows(reports), "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(o.out, "summary.json")
	if err := os.WriteFile(path, append(summary, '\n'), 0o666); err != nil {
		return err
	}
	plot := filepath.Join(o.out, "loss.png")
	if err := train.PlotLoss(plot, reports); err != nil {
		return err
	}
	if o.JSON {
		fmt.Fprintf(out, "%s\n", summary)
	} else {
		train.PrintReports(out, reports)
		fmt.Fprintf(out, "\n%s\n%s\n", path, plot)
	}
	return demoVerdict(reports)
}

func demoRows(reports []*trainer.Report) []demoRow {
	rows := make([]demoRow, len(reports))
	for i, r := range reports {
		rows[i] = demoRow{r.Hook, r.Accuracy, r.WeightsIdentical, r.Steps, r.BytesOnWire, r.MsPerStep}
	}
	return rows
}

// demoVerdict is nil when the demo shows what it claims.
func demoVerdict(reports []*trainer.Report) error {
	for _, r := range reports {
		if !r.WeightsIdentical {
			return fmt.Errorf("hook %s: the ranks' weights differ", r.Hook)
		}
		if r.Accuracy < demoAccuracy {
			return fmt.Errorf("hook %s: test accuracy %.4f, below %.2f (the defaults reach it; were --epochs or --lr changed?)", r.Hook, r.Accuracy, demoAccuracy)
		}
	}
	return nil
}

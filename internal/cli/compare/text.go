package compare

import (
	"fmt"
	"math"
	"strings"

	"pyhook/internal/compare"
	"pyhook/internal/report"
)

// printReport writes the tables to out, and why hooks failed to failures.
func printReport(out, failures *report.Printer, r *compare.Report, written []string) {
	if r.Constants != nil {
		printHead(out, r)
		printMeasured(out, r)
		for _, network := range r.Networks {
			printPredicted(out, r, network)
		}
		printNotes(out, r)
	}
	for _, h := range r.Hooks {
		if h.Failure != nil {
			failures.Error(h.Failure.Message, h.Failure.Traceback, h.Failure.Hint)
		}
	}
	for _, path := range written {
		out.Printf("%s\n", path)
	}
}

func printHead(out *report.Printer, r *compare.Report) {
	out.Printf("%s  %s\n", out.Bold(r.Model), out.Dim(fmt.Sprintf("%d elements in %s and %s; %s on %s, %s, seed %d; torch %s, Python %s",
		r.Elements, report.Count(r.Parameters, "parameter"), report.Count(r.Buckets, "bucket"), report.Count(r.Ranks, "rank"), r.Backend,
		report.Count(r.Steps, "step"), r.Seed, r.Torch, r.Python)))
	out.Printf("%s\n\n", out.Dim(r.Gradients))
}

func printMeasured(out *report.Printer, r *compare.Report) {
	trained := false
	for _, h := range r.Hooks {
		trained = trained || h.Training != nil
	}
	heads := []string{"hook", "sent", "hook time", "collectives", "error", "accumulated", "cosine", "state"}
	if trained {
		heads = append(heads, "accuracy", "last loss")
	}
	rows := [][]report.Cell{report.Styled(out.Dim, heads...)}
	for _, h := range r.Hooks {
		if h.Failure != nil {
			rows = append(rows, []report.Cell{report.Text(h.Hook), {Text: "failed: " + h.Failure.Code, Style: out.Bad}})
			continue
		}
		sent := "unknown"
		if r.NoBytes == "" {
			sent = report.Bytes(uint64(h.Bytes))
		}
		mean, cosine := h.MeanError()
		row := report.Row(h.Hook, sent, report.Seconds(h.HookSeconds), report.Seconds(h.CollectiveSeconds), report.Relative(mean), report.Relative(h.Last().Accumulated),
			cosineText(cosine), report.Bytes(uint64(h.StateBytes)))
		if h.Training != nil {
			row = append(row, report.Text(fmt.Sprintf("%.4f", h.Training.Accuracy)), report.Text(lastLoss(h.Training)))
		}
		rows = append(rows, row)
	}
	out.Table("  ", report.AlignLeft, rows)
	text := "of a step: a rank's bytes, the slowest rank's time, the mean error of the second half of the steps"
	if r.Stride > 1 {
		text += fmt.Sprintf("; accumulated: over all steps, of 1 element in %d", r.Stride)
	}
	out.Printf("\n  %s\n", out.Dim(text))
}

// lastLoss is the mean of the last tenth of the steps.
func lastLoss(t *compare.Training) string {
	last := t.Loss[len(t.Loss)-max(1, len(t.Loss)/10):]
	sum := 0.0
	for _, loss := range last {
		sum += loss
	}
	return fmt.Sprintf("%.4f", sum/float64(len(last)))
}

func printPredicted(out *report.Printer, r *compare.Report, network compare.Network) {
	what := "to reduce a step's buckets one after another"
	if r.Passes > 0 {
		what = fmt.Sprintf("of a step whose passes take %s", report.Seconds(r.Passes))
	}
	out.Printf("\n%s %s\n", out.Bold("predicted on "+network.Name), out.Dim(fmt.Sprintf("%s, %s a message", what, report.Seconds(network.Latency))))
	var rows [][]report.Cell
	best := map[int]float64{}
	for _, h := range r.Hooks {
		for _, p := range h.Predicted {
			if v, known := best[p.Ranks]; p.Network == network.Name && (!known || predicted(p) < v) {
				best[p.Ranks] = predicted(p)
			}
		}
	}
	for _, h := range r.Hooks {
		row := report.Row(h.Hook)
		head := report.Styled(out.Dim, "ranks")
		for _, p := range h.Predicted {
			if p.Network != network.Name {
				continue
			}
			cell := report.Text(report.Seconds(predicted(p)))
			if predicted(p) == best[p.Ranks] {
				cell.Style = out.Good
			}
			head, row = append(head, report.Cell{Text: fmt.Sprint(p.Ranks), Style: out.Dim}), append(row, cell)
		}
		if len(rows) == 0 && len(row) > 1 {
			rows = append(rows, head)
		}
		if len(row) > 1 {
			rows = append(rows, row)
		}
	}
	out.Table("  ", report.AlignLeft, rows)
}

// predicted is what a table shows of a prediction.
func predicted(p compare.Prediction) float64 {
	if p.StepSeconds > 0 {
		return p.StepSeconds
	}
	return p.Seconds
}

func printNotes(out *report.Printer, r *compare.Report) {
	out.Printf("\n  %s\n", out.Dim(fmt.Sprintf("constants of this machine: %s a message, %.2f ns a byte (%s/s)",
		report.Seconds(r.Constants.MessageSeconds), r.Constants.ByteSeconds*1e9, report.Bytes(uint64(1/math.Max(r.Constants.ByteSeconds, 1e-15))))))
	if r.NoBytes != "" {
		out.Printf("\n%s %s\n", out.Doubtful("note:"), r.NoBytes)
	}
	for _, h := range r.Hooks {
		for _, warning := range h.Warnings {
			out.Printf("\n%s %s: %s\n", out.Doubtful("warning:"), h.Hook, warning)
		}
		if h.Training != nil && !h.Training.WeightsIdentical {
			out.Printf("\n%s %s: the trained weights differ from rank to rank\n", out.Doubtful("warning:"), h.Hook)
		}
	}
	out.Printf("\n")
}

// cosineText has as many nines as there are.
func cosineText(v float64) string {
	if v > 0.9999 {
		return "1-" + strings.Replace(fmt.Sprintf("%.0e", math.Max(1-v, 0)), "0e+00", "0", 1)
	}
	return fmt.Sprintf("%.4f", v)
}

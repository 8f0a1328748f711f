package check

import (
	"fmt"
	"strings"

	"pyhook/internal/report"
)

// print writes the report: the table to out, a failure to failures.
func (r *checkReport) print(out, failures *report.Printer) {
	if r.Failure != nil {
		printFailure(failures, r)
		return
	}
	printCheckHead(out, r)
	printBuckets(out, r)
	printOrder(out, r)
	if r.Stock != "" {
		out.Printf("\n%s DistributedDataParallel of torch %s refuses this hook, which runs here: %s\n", out.Doubtful("note:"), r.Torch, r.Stock)
	}
	if len(r.Legacy) > 0 {
		out.Printf("\n%s old-style hook: torch 1.7 to 1.9 names: %s: works here, not on current PyTorch\n",
			out.Doubtful("note:"), strings.Join(r.Legacy, ", "))
	}
	if r.NoBytes != "" {
		out.Printf("\n%s %s\n", out.Doubtful("note:"), r.NoBytes)
	}
	for _, warning := range r.Warnings {
		out.Printf("\n%s %s\n", out.Doubtful("warning:"), warning)
	}
	out.Printf("\n")
	if r.OK {
		alike := "and alike on " + report.Count(r.Ranks, "rank")
		if r.MayDiffer {
			alike = fmt.Sprintf("on %s; whether they are alike was not judged (--ranks-may-differ)", report.Count(r.Ranks, "rank"))
		}
		out.Printf("%s %s keeps the contract: results are valid, %s\n", out.Good("ok:"), r.Hook, alike)
		return
	}
	out.Printf("%s %s breaks the contract\n", out.Bad("failed:"), r.Hook)
	for _, problem := range r.Problems {
		out.Printf("  %s\n", problem)
	}
	if r.Hint != "" {
		out.Hint("", r.Hint)
	}
}

func printCheckHead(out *report.Printer, r *checkReport) {
	name := r.HookName
	if name == r.Hook { // of a file that was named by its path
		name = ""
	}
	out.Printf("%s\n", strings.TrimRight(out.Bold(r.Hook)+"  "+out.Dim(name), " "))
	if r.State != "" {
		out.Printf("%s\n", out.Dim("state "+r.State+stateArgsText(r.Args)))
	}
	out.Printf("%s\n\n", out.Dim(fmt.Sprintf("%s on %s, %s, %s, seed %d; torch %s, Python %s",
		report.Count(r.Ranks, "rank"), r.Backend, report.Count(r.Steps, "step"), r.DType, r.Seed, r.Torch, r.Python)))
}

func stateArgsText(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return "(" + strings.Join(args, ", ") + ")"
}

func printBuckets(out *report.Printer, r *checkReport) {
	rows := [][]report.Cell{report.Styled(out.Dim, "bucket", "elements", "valid", "ranks", "max error", "rms error", "rms, last", "time", "result", "gradients")}
	for _, b := range r.Buckets {
		valid, alike := report.Cell{Text: "ok", Style: out.Good}, report.Cell{Text: "alike", Style: out.Good}
		if !b.Valid {
			valid = report.Cell{Text: "NOT FINITE", Style: out.Bad}
		}
		if !b.Alike {
			alike = report.Cell{Text: "DIFFER", Style: out.Bad}
			if r.MayDiffer {
				alike = report.Text("differ")
			}
		}
		maxError, rmsError, rmsLast := "-", "-", "-"
		if b.ErrorWorst != nil {
			maxError, rmsError, rmsLast = report.Relative(b.ErrorWorst.Max), report.Relative(b.ErrorWorst.RMS), report.Relative(b.ErrorLast.RMS)
		}
		rows = append(rows, []report.Cell{
			report.Text(fmt.Sprint(b.Bucket)), report.Text(fmt.Sprint(b.Elements)), valid, alike,
			report.Text(maxError), report.Text(rmsError), report.Text(rmsLast),
			report.Text(report.Seconds(b.MedianSeconds)), report.Text(resultText(&b, r.DType)),
			{Text: formatShapes(b.Shapes), Style: out.Dim},
		})
	}
	out.Table("  ", report.AlignRight, rows)
	out.Printf("\n  %s\n", out.Dim("errors: relative to the exact mean, in the worst step and the last; time: median"))
	if r.BytesLast != nil {
		out.Printf("  all ranks together sent %s in the last step\n", report.Bytes(*r.BytesLast))
	}
}

func resultText(b *bucketReport, dtype string) string {
	text := "new tensor"
	if b.OwnMemory {
		text = "in place"
	}
	if b.ResultDType != dtype {
		text = b.ResultDType
	}
	return text
}

func printFailure(p *report.Printer, r *checkReport) {
	f := r.Failure
	p.Error(f.Message, f.Traceback)
	if f.Others != "" {
		p.Printf("%s\n", report.Indent(f.Others, "  "))
	}
	if f.Hint != "" {
		p.Hint("", f.Hint)
	}
}

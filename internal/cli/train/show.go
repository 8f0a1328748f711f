package train

import (
	"fmt"
	"io"

	"pyhook/internal/demo/trainer"
	"pyhook/internal/report"
)

// progress shows how far a training run is.
type progress struct {
	*report.Progress
	title string
}

func newProgress(out io.Writer, title string) *progress {
	p := &progress{Progress: report.NewProgress(out), title: title}
	p.Set(title + ": starting Python and torch on every rank")
	return p
}

func (p *progress) step(e trainer.Event) {
	p.Step(fmt.Sprintf("%s: epoch %d, loss %.4f", p.title, e.Epoch+1, e.Loss), e.Step, e.Steps)
}

// PrintReports writes a table with a line for each run.
func PrintReports(out io.Writer, reports []*trainer.Report) {
	r := reports[0]
	fmt.Fprintf(out, "%d ranks, %d parameters in %d buckets, torch %s on Python %s\n\n", r.Size, r.Parameters, r.Buckets, r.Torch, r.Python)
	rows := [][]report.Cell{report.Row("hook", "accuracy", "weights on all ranks", "steps", "sent", "ms a step", "of it reducing")}
	for _, r := range reports {
		same := "bitwise alike"
		if !r.WeightsIdentical {
			same = "DIFFER"
		}
		sent := "not counted"
		if r.BytesOnWire > 0 {
			sent = fmt.Sprintf("%.2f MB", float64(r.BytesOnWire)/1e6)
		}
		rows = append(rows, report.Row(r.Hook, fmt.Sprintf("%.4f", r.Accuracy), same, fmt.Sprint(r.Steps), sent,
			fmt.Sprintf("%.2f", r.MsPerStep), fmt.Sprintf("%.2f", r.ReduceMs)))
	}
	report.New(out).Table("", report.AlignLeft, rows)
}

package main

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"pyhook/internal/demo/trainer"
)

// progress is a live bar on a terminal, and nothing elsewhere.
type progress struct {
	out   io.Writer
	title string
	live  bool
	bar   *progressbar.ProgressBar
}

func newProgress(out *os.File, title string) *progress {
	p := &progress{out: out, title: title, live: term.IsTerminal(int(out.Fd()))}
	if p.live {
		// Until the first step: Python and torch are starting.
		p.bar = progressbar.NewOptions(-1, progressbar.OptionSetWriter(out), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetDescription(title+": starting Python and torch on every rank"))
		_ = p.bar.RenderBlank()
	}
	return p
}

func (p *progress) step(e trainer.Event) {
	if !p.live {
		return
	}
	if p.bar.GetMax() != e.Steps {
		_ = p.bar.Clear()
		p.bar = progressbar.NewOptions(e.Steps, progressbar.OptionSetWriter(p.out), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetWidth(24), progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("steps"))
	}
	p.bar.Describe(fmt.Sprintf("%s: epoch %d, loss %.4f", p.title, e.Epoch+1, e.Loss))
	_ = p.bar.Set(e.Step)
}

// print writes a line of a rank's above the bar.
func (p *progress) print(line string) {
	if p.live {
		_ = p.bar.Clear()
	}
	fmt.Fprint(p.out, line)
}

func (p *progress) close() {
	if p.live {
		_ = p.bar.Finish()
		_ = p.bar.Clear()
	}
}

func printReports(out io.Writer, reports []*trainer.Report) {
	r := reports[0]
	fmt.Fprintf(out, "%d ranks, %d parameters in %d buckets, torch %s on Python %s\n\n", r.WorldSize, r.Parameters, r.Buckets, r.Torch, r.Python)
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "hook\taccuracy\tweights on all ranks\tsteps\tsent\tms a step\tof it reducing")
	for _, r := range reports {
		same := "bitwise alike"
		if !r.WeightsIdentical {
			same = "DIFFER"
		}
		sent := "not counted"
		if r.BytesOnWire > 0 {
			sent = fmt.Sprintf("%.2f MB", float64(r.BytesOnWire)/1e6)
		}
		fmt.Fprintf(w, "%s\t%.4f\t%s\t%d\t%s\t%.2f\t%.2f\n", r.Hook, r.Accuracy, same, r.Steps, sent, r.MsPerStep, r.ReduceMs)
	}
	w.Flush()
}

package report

import (
	"io"

	"github.com/schollz/progressbar/v3"
)

// Progress is one live line: the present activity, with a bar where its length is known. Where
// w is not a terminal it writes nothing but Write's lines. It is not safe for concurrent use.
type Progress struct {
	w     io.Writer
	live  bool
	bar   *progressbar.ProgressBar
	total int  // of the bar
	shown bool // the bar is on the terminal
}

// unknown is progressbar's total of an activity whose length is not known.
const unknown = -1

// NewProgress makes a live line on w, which shows at the first Set or Step.
func NewProgress(w io.Writer) *Progress { return &Progress{w: w, live: IsTerminal(w)} }

// Set shows an activity whose length is not known.
func (p *Progress) Set(text string) { p.show(text, 0, unknown) }

// Step shows an activity of which done steps of total are done. The line goes at the last one.
func (p *Progress) Step(text string, done, total int) { p.show(text, done, max(total, 1)) }

func (p *Progress) show(text string, done, total int) {
	if !p.live {
		return
	}
	if p.bar == nil || p.total != total || p.bar.IsFinished() {
		p.Clear()
		p.bar, p.total = newBar(p.w, total), total
	}
	p.bar.Describe(text)
	if total != unknown {
		_ = p.bar.Set(min(done, total)) // only a number beyond total is an error
	}
	p.shown = !p.bar.IsFinished()
}

func newBar(w io.Writer, total int) *progressbar.ProgressBar {
	options := []progressbar.Option{
		progressbar.OptionSetWriter(w), progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(24),
		// Without an interval the bar has no goroutine, which would write between the lines of
		// Write.
		progressbar.OptionSetSpinnerChangeInterval(0), progressbar.OptionSetElapsedTime(false),
	}
	if total != unknown {
		options = append(options, progressbar.OptionShowCount())
	}
	return progressbar.NewOptions(total, options...)
}

// Write writes whole lines above the live line, or without one.
func (p *Progress) Write(lines []byte) (int, error) {
	p.Clear()
	return p.w.Write(lines)
}

// Clear removes the live line until the next Set or Step. It may be called more than once.
func (p *Progress) Clear() {
	if p.shown {
		_ = p.bar.Clear()
		p.shown = false
	}
}

package report

import "io"

// Progress is one live line. Where w is no terminal it writes nothing. It is
// not for concurrent use.
type Progress struct {
	p    *Printer
	on   bool
	last string
}

// NewProgress makes a live line on w.
func NewProgress(w io.Writer) *Progress {
	return &Progress{p: New(w), on: IsTerminal(w)}
}

// Set shows text in place of what was there.
func (l *Progress) Set(text string) {
	if !l.on || text == l.last {
		return
	}
	l.last = text
	l.p.Printf("\r\x1b[K%s", l.p.Dim(text))
}

// Clear takes the line away. It may be called more than once.
func (l *Progress) Clear() {
	if l.on && l.last != "" {
		l.last = ""
		l.p.Printf("\r\x1b[K")
	}
}

package report

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// Printer writes text for people. It is not for concurrent use.
type Printer struct {
	w      io.Writer
	colour bool
}

// New makes a Printer; colours are on if w is a terminal that shows them.
func New(w io.Writer) *Printer {
	return &Printer{w: w, colour: IsTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Printf writes formatted text. It ignores errors of the output.
func (p *Printer) Printf(format string, args ...any) { fmt.Fprintf(p.w, format, args...) }

// The styles.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (p *Printer) style(code, text string) string {
	if !p.colour || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Bold returns text in bold.
func (p *Printer) Bold(text string) string { return p.style(bold, text) }

// Dim returns text that matters less.
func (p *Printer) Dim(text string) string { return p.style(dim, text) }

// Good returns text in green.
func (p *Printer) Good(text string) string { return p.style(green, text) }

// Doubtful returns text in yellow.
func (p *Printer) Doubtful(text string) string { return p.style(yellow, text) }

// Bad returns text in red.
func (p *Printer) Bad(text string) string { return p.style(red+";"+bold, text) }

// Hint writes "hint: text", lines after the first behind as many spaces.
func (p *Printer) Hint(indent, text string) {
	for i, line := range strings.Split(text, "\n") {
		label := p.style(cyan, "hint:")
		if i > 0 {
			label = "     "
		}
		p.Printf("%s%s %s\n", indent, label, line)
	}
}

// Error writes a failure: "error: " and the message, further lines indented,
// then details as they are (a traceback), then the hints.
func (p *Printer) Error(message, details string, hints ...string) {
	lines := strings.Split(strings.TrimRight(message, "\n"), "\n")
	p.Printf("%s %s\n", p.Bad("error:"), lines[0])
	for _, line := range lines[1:] {
		p.Printf("  %s\n", line)
	}
	if details = strings.TrimRight(details, "\n"); details != "" {
		p.Printf("%s\n", Indent(details, "    "))
	}
	for _, hint := range hints {
		if hint != "" {
			p.Hint("", hint)
		}
	}
}

// Indent puts prefix before each line that is not empty.
func Indent(text, prefix string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if line != "" {
			lines[i] = prefix + line
		}
	}
	return strings.Join(lines, "\n")
}

// SplitHints separates the lines "hint: ..." of an error's text.
func SplitHints(text string) (message string, hints []string) {
	var rest []string
	for _, line := range strings.Split(text, "\n") {
		if hint, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "hint: "); ok {
			hints = append(hints, hint)
			continue
		}
		rest = append(rest, line)
	}
	return strings.Join(rest, "\n"), hints
}

// JSON writes one value, indented, as the only thing on w.
func JSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

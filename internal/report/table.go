package report

import (
	"strings"
	"text/tabwriter"
)

// Cell is one cell of a table. Its style takes no width.
type Cell struct {
	Text  string
	Style func(string) string // nil: plain
}

// Text makes a plain cell.
func Text(s string) Cell { return Cell{Text: s} }

// Row makes a row of plain cells.
func Row(texts ...string) []Cell { return Styled(nil, texts...) }

// Styled makes a row of cells of one style.
func Styled(style func(string) string, texts ...string) []Cell {
	cells := make([]Cell, len(texts))
	for i, text := range texts {
		cells[i] = Cell{text, style}
	}
	return cells
}

// Align is how a table sets its columns.
type Align uint

// The values of Align.
const (
	AlignLeft  Align = 0
	AlignRight       = Align(tabwriter.AlignRight) // for tables of numbers
)

// Table writes rows with their columns aligned and two spaces between. The last cell of a row
// is not aligned: it starts at the left of its column and may be of any length. It may have
// styles and line ends in its text; other cells must not.
func (p *Printer) Table(indent string, align Align, rows [][]Cell) {
	const gap = "  "
	var plain strings.Builder
	w := tabwriter.NewWriter(&plain, 0, 0, len(gap), ' ', uint(align))
	for _, row := range rows {
		for _, cell := range row[:max(0, len(row)-1)] {
			w.Write([]byte(cell.Text + "\t"))
		}
		w.Write([]byte("\n"))
	}
	w.Flush() // a strings.Builder never fails
	lines := strings.Split(plain.String(), "\n")
	for i, row := range rows {
		if len(row) == 0 {
			p.Printf("\n")
			continue
		}
		line := lines[i]
		if align == AlignRight { // tabwriter's gap is then before a column
			line = strings.TrimPrefix(line, gap) + gap
		}
		if len(row) == 1 {
			line = ""
		}
		p.Printf("%s%s\n", indent, strings.TrimRight(styled(line, row), " "))
	}
}

// styled gives the cells of a line their styles, and appends the last cell.
func styled(line string, row []Cell) string {
	var out strings.Builder
	for i, cell := range row {
		text := cell.Text
		if cell.Style != nil {
			text = cell.Style(text)
		}
		if i == len(row)-1 {
			return out.String() + line + text
		}
		before, after, _ := strings.Cut(line, cell.Text)
		out.WriteString(before + text)
		line = after
	}
	return out.String() + line
}

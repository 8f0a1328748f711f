package report

import (
	"strings"
	"unicode/utf8"
)

// Cell is a table's text and how it is styled; the style takes no room.
type Cell struct {
	Text  string
	Style func(string) string // nil: plain
}

// Text makes a plain cell.
func Text(s string) Cell { return Cell{Text: s} }

// Table writes rows with their columns aligned and two spaces between. right
// says which columns are set to the right, as numbers are: 'r' at its place,
// such as "lrr"; beyond its end columns are set to the left.
func (p *Printer) Table(indent, right string, rows [][]Cell) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell.Text))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		line.WriteString(indent)
		for i, cell := range row {
			text := cell.Text
			if cell.Style != nil {
				text = cell.Style(text)
			}
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell.Text))
			if i < len(right) && right[i] == 'r' {
				text = pad + text
			} else {
				text += pad
			}
			if i > 0 {
				line.WriteString("  ")
			}
			line.WriteString(text)
		}
		p.Printf("%s\n", strings.TrimRight(line.String(), " "))
	}
}

package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"pyhook/internal/report"
)

// result is all that a run has found.
type result struct {
	Torch     string      `json:"torch"`
	Python    string      `json:"python"`
	Go        string      `json:"go"`
	Cores     int         `json:"cores"`
	Load      [2]string   `json:"load"` // of the last minute, at the start and at the end
	Rows      []row       `json:"rows"`
	Endurance []endurance `json:"endurance"`
	Missing   []missing   `json:"missing"`
}

// missing is a peer that could not be measured here.
type missing struct {
	Peer string `json:"peer"`
	Why  string `json:"why"`
}

// print prints the tables, the quickest peer of a case first.
func (r *result) print(w io.Writer) {
	p := report.New(w)
	p.Printf("torch %s, Python %s, %s, %d cores, load %s to %s\n", r.Torch, r.Python, r.Go, r.Cores, r.Load[0], r.Load[1])
	p.Printf("ratio: to pyhook, median of neighbouring blocks; times in us a call; copied: bytes a call besides the hook's own\n\n")
	rows := slices.Clone(r.Rows)
	slices.SortStableFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.Ranks, b.Ranks), -cmp.Compare(a.Hook, b.Hook), cmp.Compare(a.Bytes, b.Bytes), cmp.Compare(a.US, b.US))
	})
	cells := [][]report.Cell{report.Row("hook", "bucket", "ratio", "half lie in", "us", "p99", "copied", "peer")}
	for _, row := range rows {
		cells = append(cells, row.cells(p))
	}
	if len(rows) > 0 {
		p.Table("", report.AlignRight, cells)
	}
	if len(r.Endurance) > 0 {
		p.Printf("\nthe noop hook on 4 KiB, from several goroutines at once\n\n")
		all := slices.Clone(r.Endurance)
		slices.SortStableFunc(all, func(a, b endurance) int {
			return cmp.Or(-cmp.Compare(text(a.Survived), text(b.Survived)), cmp.Compare(a.US, b.US))
		})
		cells := [][]report.Cell{report.Row("calls", "goroutines", "survives", "us", "memory", "peer")}
		for _, e := range all {
			cells = append(cells, e.cells(p))
		}
		p.Table("", report.AlignRight, cells)
	}
	for _, m := range r.Missing {
		p.Printf("\nleft out: %s\n", m.Peer)
		p.Hint("  ", m.Why)
	}
}

func (r row) cells(p *report.Printer) []report.Cell {
	if r.Error != "" {
		return append(report.Row(r.Hook, size(r.Bytes), "-", "-", "-", "-", "-"), report.Cell{Text: r.What + ": " + r.Error, Style: p.Bad})
	}
	return report.Row(r.Hook, size(r.Bytes), digits(r.Ratio), digits(r.RatioLow)+"-"+digits(r.RatioHigh), digits(r.US), digits(r.P99US), r.copied(), r.What)
}

func (r row) copied() string {
	if r.Copied == nil {
		return "-"
	}
	text := report.Bytes(uint64(*r.Copied))
	if r.AtLeast {
		text = ">" + text
	}
	return text
}

func (e endurance) cells(p *report.Printer) []report.Cell {
	calls, goroutines := fmt.Sprint(e.Calls), fmt.Sprint(e.Goroutines)
	if !e.Survived {
		return append(report.Row(calls, goroutines, "no", "-", "-"), report.Cell{Text: e.What + ": " + e.Error, Style: p.Bad})
	}
	return report.Row(calls, goroutines, "yes", digits(e.US), fmt.Sprintf("%+.2f MiB", float64(e.Growth)/(1<<20)), e.What)
}

func text(survived bool) string {
	if survived {
		return "yes"
	}
	return "no"
}

func size(bytes int) string {
	if bytes >= 1<<20 {
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%d KiB", bytes>>10)
}

// digits is a number with two or three digits, or all that it has before the point.
func digits(v float64) string {
	switch {
	case v < 0.095:
		return fmt.Sprintf("%.2g", v)
	case v < 9.995:
		return fmt.Sprintf("%.2f", v)
	case v < 99.95:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

package main

import (
	"fmt"
	"io"
	"runtime"

	"pyhook/ddp"
	"pyhook/internal/quantile"
	"pyhook/internal/report"
)

// row is a case's figures: milliseconds a step, medians.
type row struct {
	Case    string  `json:"case"`
	Ratio   float64 `json:"ratio"` // median over neighbouring pairs of steps of Go's time over stock DDP's
	Low     float64 `json:"ratio_low"`
	High    float64 `json:"ratio_high"` // half of the pairs lie between
	GoMS    float64 `json:"go_ms"`
	StockMS float64 `json:"stock_ms"`
	Order   string  `json:"order"`
	Device  string  `json:"device"`
	Steps   int     `json:"steps"`
	Ranks   int     `json:"ranks"`
	Torch   string  `json:"torch"`
	Python  string  `json:"python"`
	Go      string  `json:"go"`
	Cores   int     `json:"cores"`
}

func (r *rank) newRow(c benchCase, order ddp.Order, goNS, stockNS []int64) row {
	ratios := make([]float64, len(goNS))
	for i := range ratios {
		ratios[i] = float64(goNS[i]) / float64(stockNS[i])
	}
	n := len(ratios)
	info := r.rt.Info()
	return row{Case: c.name(), Ratio: quantile.At(ratios, 0.5), Low: quantile.At(ratios, 0.25), High: quantile.At(ratios, 0.75),
		GoMS: quantile.At(goNS, 0.5) / 1e6, StockMS: quantile.At(stockNS, 0.5) / 1e6,
		Order: order.String(), Device: r.device.String(), Steps: n, Ranks: r.group.Size(), Torch: info.Torch, Python: info.Version, Go: runtime.Version(), Cores: runtime.NumCPU()}
}

func printTable(w io.Writer, rows []row) {
	if len(rows) == 0 {
		return
	}
	first := rows[0]
	fmt.Fprintf(w, "\nWhole steps on ResNet-50's shapes (25,557,032 elements, 161 tensors), %d ranks, gradients on %s, %d steps a side.\ntorch %s, Python %s, %s, %d cores. ratio: Go over stock DDP, median of neighbouring steps.\n\n",
		first.Ranks, first.Device, first.Steps, first.Torch, first.Python, first.Go, first.Cores)
	cells := [][]report.Cell{report.Row("hook/gradients", "ratio", "half lie in", "go ms", "stock ms", "order")}
	for _, r := range rows {
		cells = append(cells, report.Row(r.Case, fmt.Sprintf("%.2f", r.Ratio), fmt.Sprintf("%.2f-%.2f", r.Low, r.High),
			fmt.Sprintf("%.1f", r.GoMS), fmt.Sprintf("%.1f", r.StockMS), r.Order))
	}
	report.New(w).Table("", report.AlignLeft, cells)
}

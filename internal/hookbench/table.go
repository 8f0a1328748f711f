package hookbench

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"

	"pyhook/internal/quantile"
	"pyhook/internal/report"
	"pyhook/pyhook"
)

// Row is one case's figures: microseconds a call, medians unless they say p99.
type Row struct {
	Case     string  `json:"case"`
	Params   int     `json:"params"`
	Bytes    int64   `json:"bytes"`
	Ranks    int     `json:"ranks"`
	Torch    string  `json:"torch"`
	GoUS     float64 `json:"go_us"`
	CppUS    float64 `json:"cpp_us"`
	PythonUS float64 `json:"python_us"` // the floor: Python calls its own hook
	// Ratio is Go's time over C++'s: the median over pairs of neighbouring
	// blocks; a quarter of the pairs lie below RatioLow, one above RatioHigh.
	Ratio     float64 `json:"ratio"`
	RatioLow  float64 `json:"ratio_low"`
	RatioHigh float64 `json:"ratio_high"`
	// CppSeparateUS is C++ in a process of its own, in turns too, and RatioSeparate Go's
	// time over that; with hooks that issue collectives.
	CppSeparateUS     float64 `json:"cpp_apart_us,omitempty"`
	RatioSeparate     float64 `json:"ratio_apart,omitempty"`
	RatioSeparateLow  float64 `json:"ratio_apart_low,omitempty"`
	RatioSeparateHigh float64 `json:"ratio_apart_high,omitempty"`
	// PythonRatio is Go's time over Python's own call.
	PythonRatio float64 `json:"python_ratio"`
	GoP99US     float64 `json:"go_p99_us"`
	CppP99US    float64 `json:"cpp_p99_us"`
	Calls       int     `json:"calls"` // of each side
	Blocks      int     `json:"blocks"`

	GoAllocs     float64 `json:"go_allocs"` // a call
	GoAllocBytes float64 `json:"go_alloc_bytes"`
	SameMemory   bool    `json:"same_memory"` // the result lies in the bucket's own buffer: no byte was copied

	// CppNewBucketUS is C++ with a new GradBucket a call, as DDP's reducer makes it.
	CppNewBucketUS float64 `json:"cpp_new_bucket_us,omitempty"`

	Python string `json:"python"`
	Go     string `json:"go"`
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
}

func newRow(c Case, goNS, pythonNS []int64, calls int) Row {
	r := Row{Case: c.Name(), Params: c.Params, Bytes: c.Bytes, Ranks: c.World, Calls: len(goNS), Blocks: len(goNS) / calls}
	r.GoUS, r.GoP99US = micro(goNS, 0.5), micro(goNS, 0.99)
	r.PythonUS = micro(pythonNS, 0.5)
	r.PythonRatio = quantile.At(pairwise(goNS, pythonNS, calls), 0.5)
	return r
}

// addCpp adds the C++ side's figures.
func (r *Row) addCpp(goNS, cppNS []int64, calls int) {
	ratios := pairwise(goNS, cppNS, calls)
	r.Ratio, r.RatioLow, r.RatioHigh = quantile.At(ratios, 0.5), quantile.At(ratios, 0.25), quantile.At(ratios, 0.75)
	r.CppUS, r.CppP99US = micro(cppNS, 0.5), micro(cppNS, 0.99)
}

// addSeparate adds those of the C++ side in its own process.
func (r *Row) addSeparate(goNS, cppNS []int64, calls int) {
	ratios := pairwise(goNS, cppNS, calls)
	r.RatioSeparate, r.RatioSeparateLow, r.RatioSeparateHigh = quantile.At(ratios, 0.5), quantile.At(ratios, 0.25), quantile.At(ratios, 0.75)
	r.CppSeparateUS = micro(cppNS, 0.5)
}

func (r *Row) describe(rt *pyhook.Runtime) {
	info := rt.Info()
	r.Torch, r.Python, r.Go = info.Torch, info.Version, runtime.Version()
	r.CPU, r.Cores = cpuModel(), runtime.NumCPU()
}

// pairwise divides the median of each block of a by that of b's same block.
func pairwise(a, b []int64, calls int) []float64 {
	ratios := make([]float64, 0, len(a)/calls)
	for i := 0; i+calls <= len(a); i += calls {
		ratios = append(ratios, quantile.At(a[i:i+calls], 0.5)/quantile.At(b[i:i+calls], 0.5))
	}
	return ratios
}

func micro(ns []int64, q float64) float64 {
	return math.Round(quantile.At(ns, q)) / 1000
}

// PrintTable prints rows for people. Without a C++ side its columns are "-".
func PrintTable(w io.Writer, rows []Row) {
	if len(rows) == 0 {
		return
	}
	r := rows[0]
	fmt.Fprintf(w, "\ntorch %s, Python %s, %s, %d x %s\n", r.Torch, r.Python, r.Go, r.Cores, r.CPU)
	fmt.Fprint(w, "ratio: Go over C++ (c10d::PythonCommHook), median of neighbouring blocks; apart: C++ in a process of its own; times in us a call\n\n")
	cells := [][]report.Cell{report.Row("ratio", "half lie in", "apart", "half lie in", "to python", "go", "c++", "apart", "new bucket", "python",
		"go p99", "c++ p99", "allocs", "copied", "case")}
	for _, r := range rows {
		copied := "0"
		if !r.SameMemory {
			copied = "other memory"
		}
		ratio, half := "-", "-"
		if r.CppUS > 0 {
			ratio, half = fmt.Sprintf("%.3f", r.Ratio), fmt.Sprintf("%.2f..%.2f", r.RatioLow, r.RatioHigh)
		}
		separate, separateHalf := "-", "-"
		if r.CppSeparateUS > 0 {
			separate, separateHalf = fmt.Sprintf("%.3f", r.RatioSeparate), fmt.Sprintf("%.2f..%.2f", r.RatioSeparateLow, r.RatioSeparateHigh)
		}
		cells = append(cells, report.Row(ratio, half, separate, separateHalf, fmt.Sprintf("%.2f", r.PythonRatio),
			us(r.GoUS), us(r.CppUS), us(r.CppSeparateUS), us(r.CppNewBucketUS), us(r.PythonUS), us(r.GoP99US), us(r.CppP99US),
			fmt.Sprintf("%.1f", r.GoAllocs), copied, r.Case))
	}
	report.New(w).Table("", report.AlignRight, cells)
}

func us(v float64) string {
	if v == 0 {
		return "-"
	}
	if v < 100 {
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// cpuModel is the processor's name.
func cpuModel() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "unknown CPU"
}

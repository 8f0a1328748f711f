package main

import (
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"text/tabwriter"

	"pyhook/pyhook"
)

// row is one case's figures: microseconds a call, medians unless they say p99.
type row struct {
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
	GoP99US   float64 `json:"go_p99_us"`
	CppP99US  float64 `json:"cpp_p99_us"`
	Calls     int     `json:"calls"` // of each side
	Blocks    int     `json:"blocks"`

	GoAllocs     float64 `json:"go_allocs"` // a call
	GoAllocBytes float64 `json:"go_alloc_bytes"`
	SameMemory   bool    `json:"same_memory"` // the result lies in the bucket's own buffer: no byte was copied

	// CppNewBucketUS is C++ with a new GradBucket a call, as DDP's reducer makes it.
	CppNewBucketUS float64 `json:"cpp_new_bucket_us,omitempty"`

	NaiveUS float64 `json:"naive_us,omitempty"` // a fresh thread state and new objects a call
	PipeUS  float64 `json:"pipe_us,omitempty"`  // a Python child process over a pipe

	Python string `json:"python"`
	Go     string `json:"go"`
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
}

func newRow(c benchCase, goNS, cppNS, pythonNS []int64, calls int) row {
	r := row{Case: c.name(), Params: c.Params, Bytes: c.Bytes, Ranks: c.World, Calls: len(goNS), Blocks: len(goNS) / calls}
	ratios := pairwise(goNS, cppNS, calls)
	r.Ratio, r.RatioLow, r.RatioHigh = quantile(ratios, 0.5), quantile(ratios, 0.25), quantile(ratios, 0.75)
	r.GoUS, r.GoP99US = micro(goNS, 0.5), micro(goNS, 0.99)
	r.CppUS, r.CppP99US = micro(cppNS, 0.5), micro(cppNS, 0.99)
	r.PythonUS = micro(pythonNS, 0.5)
	return r
}

func (r *row) describe(rt *pyhook.Runtime) {
	info := rt.Info()
	r.Torch, r.Python, r.Go = info.Torch, info.Version, runtime.Version()
	r.CPU, r.Cores = cpuModel(), runtime.NumCPU()
}

// pairwise divides the median of each block of a by that of b's same block.
func pairwise(a, b []int64, calls int) []float64 {
	ratios := make([]float64, 0, len(a)/calls)
	for i := 0; i+calls <= len(a); i += calls {
		ratios = append(ratios, quantile(a[i:i+calls], 0.5)/quantile(b[i:i+calls], 0.5))
	}
	return ratios
}

// quantile interpolates between the nearest values.
func quantile[N int64 | float64](values []N, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	below := int(math.Floor(at))
	above := int(math.Ceil(at))
	return float64(sorted[below]) + (at-float64(below))*float64(sorted[above]-sorted[below])
}

func micro(ns []int64, q float64) float64 {
	return math.Round(quantile(ns, q)) / 1000
}

func printTable(w io.Writer, rows []row) {
	if len(rows) == 0 {
		return
	}
	r := rows[0]
	fmt.Fprintf(w, "\ntorch %s, Python %s, %s, %d x %s\n", r.Torch, r.Python, r.Go, r.Cores, r.CPU)
	fmt.Fprint(w, "ratio: Go over C++ (c10d::PythonCommHook), median of neighbouring blocks; times in us a call\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "ratio\thalf lie in\tgo\tc++\tnew bucket\tpython\tgo p99\tc++ p99\tallocs\tcopied\tcase\t\n")
	for _, r := range rows {
		copied := "0"
		if !r.SameMemory {
			copied = "other memory"
		}
		newBucket := "-"
		if r.CppNewBucketUS > 0 {
			newBucket = us(r.CppNewBucketUS)
		}
		fmt.Fprintf(t, "%.3f\t%.2f..%.2f\t%s\t%s\t%s\t%s\t%s\t%s\t%.1f\t%s\t%s\t\n", r.Ratio, r.RatioLow, r.RatioHigh,
			us(r.GoUS), us(r.CppUS), newBucket, us(r.PythonUS), us(r.GoP99US), us(r.CppP99US), r.GoAllocs, copied, r.Case)
	}
	t.Flush()
	for _, r := range rows {
		if r.NaiveUS > 0 {
			fmt.Fprintf(w, "%s for scale: %s us with a fresh thread state and new objects a call, %s us by a child process and a pipe\n",
				r.Case, us(r.NaiveUS), us(r.PipeUS))
		}
	}
}

func us(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

package tensorconv

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func BenchmarkToTorch(b *testing.B) {
	x := newClosed(b, Float32, 1000, 10)
	for b.Loop() {
		o, err := x.Python()
		if err != nil {
			b.Fatal(err)
		}
		o.Close()
	}
}

func BenchmarkFromTorch(b *testing.B) {
	o := eval(b, "torch.zeros(1000, 10)")
	for b.Loop() {
		x, err := FromPython(o)
		if err != nil {
			b.Fatal(err)
		}
		x.Close()
	}
}

func BenchmarkFromNumpy(b *testing.B) {
	o := eval(b, "numpy.zeros((1000, 10))")
	for b.Loop() {
		x, err := FromPython(o)
		if err != nil {
			b.Fatal(err)
		}
		x.Close()
	}
}

func BenchmarkFromSlice(b *testing.B) {
	s := make([]float32, 10_000)
	for b.Loop() {
		x, err := FromSlice(s)
		if err != nil {
			b.Fatal(err)
		}
		x.Close()
	}
}

// BenchmarkCopy compares Copy with torch's copy_ on one thread, on a bucket of
// DDP's default size, and prints the ratio.
func BenchmarkCopy(b *testing.B) {
	const bytes = 25 << 20
	for _, pair := range [][2]DType{{Float16, Float32}, {Float32, Float16}, {BFloat16, Float32}, {Float32, BFloat16}, {Float32, Float32}, {Float64, Float32}} {
		from, to := pair[0], pair[1]
		n := int64(bytes / max(from.Size(), to.Size()))
		b.Run(from.String()+"_to_"+to.String(), func(b *testing.B) {
			src, dst := newClosed(b, from, n), newClosed(b, to, n)
			s, d := toPython(b, src), toPython(b, dst)
			threads := call(b, "evaluate", "torch.get_num_threads()")
			call(b, "evaluate", "torch.set_num_threads(1)")
			defer call(b, "evaluate", fmt.Sprintf("torch.set_num_threads(%d)", threads))
			b.SetBytes(n * int64(from.Size()+to.Size()))
			var ours, torchs time.Duration
			for b.Loop() {
				start := time.Now()
				require.NoError(b, Copy(dst, src))
				ours += time.Since(start)
				b.StopTimer()
				start = time.Now()
				o, err := d.Call("copy_", s)
				require.NoError(b, err)
				torchs += time.Since(start)
				o.Close()
				b.StartTimer()
			}
			b.ReportMetric(ours.Seconds()/torchs.Seconds(), "of-torchs-time")
			b.ReportMetric(0, "ns/op")
		})
	}
}

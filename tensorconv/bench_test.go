package tensorconv_test

import (
	"fmt"
	"testing"
	"time"

	"pyhook/internal/torchtest"
	"pyhook/tensor"
	"pyhook/tensorconv"

	"github.com/stretchr/testify/require"
)

func BenchmarkToTorch(b *testing.B) {
	x := torchtest.New(b, tensor.Float32, 1000, 10)
	for b.Loop() {
		o, err := tensorconv.ToPython(x)
		if err != nil {
			b.Fatal(err)
		}
		o.Close()
	}
}

func BenchmarkFromTorch(b *testing.B) {
	o := torchtest.Eval(b, "torch.zeros(1000, 10)")
	for b.Loop() {
		x, err := tensorconv.FromPython(o)
		if err != nil {
			b.Fatal(err)
		}
		x.Close()
	}
}

func BenchmarkFromNumpy(b *testing.B) {
	o := torchtest.Eval(b, "numpy.zeros((1000, 10))")
	for b.Loop() {
		x, err := tensorconv.FromPython(o)
		if err != nil {
			b.Fatal(err)
		}
		x.Close()
	}
}

func BenchmarkFromSlice(b *testing.B) {
	s := make([]float32, 10_000)
	for b.Loop() {
		x, err := tensor.FromSlice(s)
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
	for _, pair := range [][2]tensor.DType{{tensor.Float16, tensor.Float32}, {tensor.Float32, tensor.Float16}, {tensor.BFloat16, tensor.Float32}, {tensor.Float32, tensor.BFloat16}, {tensor.Float32, tensor.Float32}, {tensor.Float64, tensor.Float32}} {
		from, to := pair[0], pair[1]
		n := int64(bytes / max(from.Size(), to.Size()))
		b.Run(from.String()+"_to_"+to.String(), func(b *testing.B) {
			src, dst := torchtest.New(b, from, n), torchtest.New(b, to, n)
			s, d := torchtest.ToPython(b, src), torchtest.ToPython(b, dst)
			threads := torchtest.Call(b, "evaluate", "torch.get_num_threads()")
			torchtest.Call(b, "evaluate", "torch.set_num_threads(1)")
			defer torchtest.Call(b, "evaluate", fmt.Sprintf("torch.set_num_threads(%d)", threads))
			b.SetBytes(n * int64(from.Size()+to.Size()))
			var ours, torchs time.Duration
			for b.Loop() {
				start := time.Now()
				require.NoError(b, tensor.Copy(dst, src))
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

package worker_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"pyhook/pyhook"
	"pyhook/tensorconv"
	"pyhook/worker"
)

func BenchmarkNoop(b *testing.B) {
	w := start(b, 1, worker.Config{})[0]
	h := hook(b, w, "noop", worker.HookConfig{})
	for _, c := range []struct {
		name string
		n    int64
		gap  time.Duration
	}{{"4KiB", 1024, 0}, {"25MiB", 25 << 18, 0}, {"4KiB-gap", 1024, 2 * time.Millisecond}} {
		b.Run(c.name, func(b *testing.B) {
			buffer, err := w.NewBuffer(tensorconv.Float32, c.n)
			require.NoError(b, err)
			defer buffer.Close()
			g, err := pyhook.NewGradBucket(pyhook.BucketConfig{Count: 1, Buffer: buffer, Offsets: []int64{0}, Lengths: []int64{c.n}, Sizes: [][]int64{{c.n}}})
			require.NoError(b, err)
			defer g.Close()
			ctx := context.Background()
			var ns []int64
			b.ReportAllocs()
			for b.Loop() {
				time.Sleep(c.gap)
				at := time.Now()
				f, err := h.RunHook(ctx, g)
				require.NoError(b, err)
				v, err := f.Wait(ctx)
				require.NoError(b, err)
				r, err := h.ParseHookResult(v)
				require.NoError(b, err)
				r.Close()
				f.Close()
				ns = append(ns, int64(time.Since(at)))
			}
			slices.Sort(ns)
			b.ReportMetric(float64(ns[len(ns)/2])/1e3, "us/median")
			b.ReportMetric(float64(ns[len(ns)*99/100])/1e3, "us/p99")
		})
	}
}

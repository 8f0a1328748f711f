package ddp_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d/hooks"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// TestUnevenInputs: rank i has data for i*2 steps, rank 0 for none.
func TestUnevenInputs(t *testing.T) {
	const size, n = 3, 4
	for _, opts := range []ddp.Options{{}, {Layout: ddp.LayoutRebuilt}, {Unused: ddp.UnusedFind}} {
		groups := memoryGroups(size)
		noLeaks(t, func() {
			onRanks(size, func(rank int) {
				opts := opts
				opts.Group, opts.Hook, opts.Join, opts.BucketCapMB = groups[rank], &hooks.AllReduceCommHook{Group: groups[rank]}, true, twoFloats
				r, err := ddp.NewReducer(testutil.Soon(t), scalars(n), opts)
				if !assert.NoError(t, err) {
					return
				}
				defer r.Close()
				for step := range rank * 2 {
					for i := n - 1; i >= 0; i-- {
						floats(r.Gradient(i))[0] = 3
						assert.NoError(t, r.Ready(i))
					}
					_, err := r.Wait(testutil.Soon(t))
					assert.NoError(t, err)
					want := float32(1) // of rank 2 alone
					if step < 2 {
						want = 2
					}
					assert.Equal(t, want, floats(r.Gradient(0))[0], "rank %d, step %d", rank, step)
				}
				last, err := r.Join(testutil.Soon(t))
				assert.NoError(t, err)
				assert.Equal(t, 2, last)
				last, err = r.Join(testutil.Soon(t))
				assert.NoError(t, err)
				assert.Equal(t, 2, last)
			})
		})
	}
}

func TestJoinNeedsItsOption(t *testing.T) {
	_, err := reducer(t, scalars(1), ddp.Options{}).Join(testutil.Soon(t))
	require.ErrorContains(t, err, "Options.Join")
	_, err = ddp.NewReducer(testutil.Soon(t), scalars(1), ddp.Options{Group: memoryGroups(1)[0], Join: true, StaticGraph: true})
	require.ErrorContains(t, err, "StaticGraph")
	r := reducer(t, scalars(2), ddp.Options{Join: true})
	set(t, r, 1, 1)
	_, err = r.Join(testutil.Soon(t))
	require.ErrorContains(t, err, "Join in a step in which p1 is marked already")
	set(t, r, 0, 1)
	_, err = r.Wait(testutil.Soon(t))
	require.NoError(t, err)
}

func TestParametersAreBroadcast(t *testing.T) {
	const size = 3
	groups := memoryGroups(size)
	noLeaks(t, func() {
		onRanks(size, func(rank int) {
			params := parameters([]int64{2, 2}, []int64{3}, []int64{0}, []int64{1})
			params[1].DType = tensor.Float64
			for i, p := range params {
				p.Data = must(tensor.New(p.DType, p.Shape...))
				defer p.Data.Close()
				fill := make([]float32, p.Data.Len())
				for k := range fill {
					fill[k] = float32(100*rank + 10*i + k)
				}
				source := must(tensor.FromSlice(fill, p.Shape...))
				check(tensor.Copy(p.Data, source))
				source.Close()
			}
			for _, root := range []int{0, 2} {
				// Each rank changes one value before.
				floats(params[3].Data)[0] = float32(rank)
				if root == 0 {
					assert.NoError(t, ddp.BroadcastParameters(testutil.Soon(t), groups[rank], params))
				} else {
					assert.NoError(t, ddp.BroadcastParametersFrom(testutil.Soon(t), groups[rank], root, params))
				}
				assert.Equal(t, []float32{0, 1, 2, 3}, floats(params[0].Data))
				assert.Equal(t, []float64{10, 11, 12}, must(tensor.Slice[float64](params[1].Data)))
				assert.Equal(t, []float32{float32(root)}, floats(params[3].Data))
			}
			params[3].Data = nil
			assert.ErrorContains(t, ddp.BroadcastParameters(testutil.Soon(t), groups[rank], params), fmt.Sprintf("rank %d: broadcasting parameter 3: it has no Data", rank))
		})
	})
}

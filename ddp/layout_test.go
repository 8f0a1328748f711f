package ddp_test

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// markInOrder marks parameters with the gradients i+1, in an order.
func markInOrder(t *testing.T, r *ddp.Reducer, order ...int) {
	t.Helper()
	for _, i := range order {
		set(t, r, i, float32(i+1))
	}
}

func TestReducer_LayoutRebuilt_isOfRankZerosOrder(t *testing.T) {
	const size, n = 3, 5
	orders := [size][]int{{4, 2, 3, 0, 1}, {0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}}
	groups := memoryGroups(size)
	noLeaks(t, func() {
		onRanks(size, func(rank int) {
			r, err := ddp.NewReducer(testutil.Soon(t), scalars(n), ddp.Options{Group: groups[rank], Layout: ddp.LayoutRebuilt, BucketCapMB: twoFloats})
			if !assert.NoError(t, err) {
				return
			}
			defer r.Close()
			assert.Equal(t, [][]int{{0, 1, 2, 3, 4}}, r.Buckets(), "the first step has one bucket")
			for step := range 3 {
				old := r.Gradient(0)
				markInOrder(t, r, orders[rank]...)
				timings, err := r.Wait(testutil.Soon(t))
				assert.NoError(t, err)
				assert.Len(t, timings, map[bool]int{true: 1, false: 3}[step == 0])
				assert.Equal(t, [][]int{{4, 2}, {3, 0}, {1}}, r.Buckets(), "by size, in rank 0's order")
				for i := range n {
					assert.Equal(t, float32(i+1), floats(r.Gradient(i))[0], "the reduced gradients came along")
				}
				assert.Equal(t, float32(1), floats(old)[0], "and stay readable where they were")
				assert.Equal(t, step > 0, old == r.Gradient(0), "gradients move once")
			}
		})
	})
}

func TestTheFirstLayoutOfMixedDTypesIsReversed(t *testing.T) {
	params := scalars(6)
	for i := range params {
		params[i].DType = []tensor.DType{tensor.Float32, tensor.Float64}[i%2]
	}
	r := reducer(t, params, ddp.Options{Hook: hook{run: identity}, Layout: ddp.LayoutRebuilt})
	require.Equal(t, [][]int{{1, 3, 5}, {0, 2, 4}}, r.Buckets())
	for _, i := range []int{4, 5, 1, 0, 3, 2} {
		require.NoError(t, r.Ready(i))
	}
	_, err := r.Wait(testutil.Soon(t))
	require.NoError(t, err)
	assert.Equal(t, [][]int{{5, 1, 3}, {4, 0, 2}}, r.Buckets(), "of buckets that are not full the newest dtype's comes first")
}

func TestAFailedFirstStepIsNotTheOneToRebuildAfter(t *testing.T) {
	fail := true
	h := hook{run: func(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
		if fail {
			return nil, assert.AnError
		}
		return identity(ctx, b)
	}}
	r := reducer(t, scalars(3), ddp.Options{Hook: h, Layout: ddp.LayoutRebuilt, BucketCapMB: tiny})
	markInOrder(t, r, 2, 1, 0)
	_, err := r.Wait(testutil.Soon(t))
	require.ErrorIs(t, err, assert.AnError)
	require.Len(t, r.Buckets(), 1)
	fail = false
	markInOrder(t, r, 1, 2, 0)
	_, err = r.Wait(testutil.Soon(t))
	require.NoError(t, err)
	assert.Equal(t, [][]int{{1}, {2}, {0}}, r.Buckets())
}

// wrongLayout changes what rank 0 broadcasts: the given broadcast's element.
type wrongLayout struct {
	*memoryGroup
	calls, at, element int
	value              int32
}

func (g *wrongLayout) Broadcast(ctx context.Context, t *tensor.Tensor, root int) (*c10d.Future[*tensor.Tensor], error) {
	if g.calls++; g.calls == g.at {
		must(tensor.Slice[int32](t))[g.element] = g.value
	}
	return g.memoryGroup.Broadcast(ctx, t, root)
}

func TestALayoutThatIsNoneIsRefused(t *testing.T) {
	for _, test := range []struct {
		at, element int
		value       int32
		want        string
	}{
		{1, 3, 0, "there are 0 buckets of 3 parameters"},
		{1, 3, math.MaxInt32, "there are 2147483647 buckets"},
		{1, 3, 2, "rank 0's buckets have not all parameters"},
		{1, 0, 7, "parameter 7, which is none or twice there"},
		{1, 0, 1, "parameter 1, which is none or twice there"},
		{2, 0, -1, "a bucket has -1 parameters"},
		{2, 0, 4, "a bucket has 4 parameters"},
	} {
		t.Run(fmt.Sprint(test), func(t *testing.T) {
			g := &wrongLayout{memoryGroup: memoryGroups(1)[0], at: test.at, element: test.element, value: test.value}
			r := reducer(t, scalars(3), ddp.Options{Group: g, Layout: ddp.LayoutRebuilt, BucketCapMB: tiny})
			markInOrder(t, r, 2, 1, 0)
			_, err := r.Wait(testutil.Soon(t))
			require.ErrorContains(t, err, test.want)
			var step *ddp.StepError
			require.ErrorAs(t, err, &step)
			stepWorks(t, r, 3) // the ranks of a group of one are in step
		})
	}
}

// TestWithoutAHookGradientsAreDividedAsPyTorchDoes: a product with the rounded
// 1/size when ReadyFrom copies, a division in the bucket, and then the sum.
func TestWithoutAHookGradientsAreDividedAsPyTorchDoes(t *testing.T) {
	for _, size := range []int{2, 3, 4} {
		groups := memoryGroups(size)
		gradient := func(rank, i int) float32 { return float32(rank+1)*1.7 + float32(i)/3 }
		onRanks(size, func(rank int) {
			const n = 40
			r, err := ddp.NewReducer(testutil.Soon(t), scalars(n), ddp.Options{Group: groups[rank], BucketCapMB: 8 * twoFloats})
			if !assert.NoError(t, err) {
				return
			}
			defer r.Close()
			own := make([]float32, n)
			for i := n - 1; i >= 0; i-- {
				if own[i] = gradient(rank, i); i%3 == 0 {
					floats(r.Gradient(i))[0] = own[i]
					assert.NoError(t, r.Ready(i))
					continue
				}
				g := must(tensor.FromSlice(own[i : i+1]))
				defer g.Close()
				assert.NoError(t, r.ReadyFrom(i, g))
			}
			_, err = r.Wait(testutil.Soon(t))
			assert.NoError(t, err)
			for i := range n {
				sum := 0.0
				for other := range size {
					if i%3 == 0 {
						sum += float64(gradient(other, i) / float32(size))
					} else {
						sum += float64(gradient(other, i) * float32(1/float64(size)))
					}
				}
				assert.Equal(t, float32(sum), floats(r.Gradient(i))[0], "%d ranks, parameter %d", size, i)
				if i%3 != 0 {
					assert.Equal(t, float32(sum), own[i])
				}
			}
		})
	}
}

package ddp_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// counted is an identity hook that counts its calls.
func counted(calls *int) hook {
	return hook{run: func(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
		*calls++
		return identity(ctx, b)
	}}
}

func TestNoSyncReducesNothingAndTheNextStepTheSum(t *testing.T) {
	groups := memoryGroups(2)
	noLeaks(t, func() {
		onRanks(2, func(rank int) {
			r, err := ddp.NewReducer(testutil.Soon(t), scalars(2), ddp.Options{Group: groups[rank], Unused: ddp.UnusedFind})
			if !assert.NoError(t, err) {
				return
			}
			defer r.Close()
			own := []float32{0}
			grad := must(tensor.FromSlice(own))
			defer grad.Close()
			backward := func() {
				floats(r.Gradient(0))[0] += float32(rank + 1)
				own[0] += float32(10 * (rank + 1))
				assert.NoError(t, r.Ready(0))
				assert.NoError(t, r.ReadyFrom(1, grad))
				_, err := r.Wait(testutil.Soon(t))
				assert.NoError(t, err)
			}
			assert.NoError(t, r.NoSync(func() error {
				backward()
				backward()
				assert.ErrorContains(t, r.NoSync(func() error { return nil }), "inside NoSync")
				return nil
			}))
			assert.Equal(t, float32(2*(rank+1)), floats(r.Gradient(0))[0])
			assert.Equal(t, float32(20*(rank+1)), own[0])
			if rank == 0 {
				backward()
			} else { // not used in the last step, but before
				_, err := r.Wait(testutil.Soon(t))
				assert.NoError(t, err)
			}
			assert.Equal(t, float32(3+4)/2, floats(r.Gradient(0))[0])
			assert.Equal(t, float32(30+40)/2, own[0])
			assert.True(t, r.Used(0))
		})
	})
}

func TestNoSyncIsNotForTheMiddleOfAStep(t *testing.T) {
	calls := 0
	r := reducer(t, scalars(2), ddp.Options{Hook: counted(&calls)})
	set(t, r, 1, 1)
	require.ErrorContains(t, r.NoSync(func() error { return nil }), "NoSync in a step in which p1 is marked already")
	set(t, r, 0, 1)
	_, err := r.Wait(testutil.Soon(t))
	require.NoError(t, err)
	boom := errors.New("boom")
	require.ErrorIs(t, r.NoSync(func() error { return errors.Join(r.Ready(0), r.Ready(0), boom) }), boom)
	require.ErrorContains(t, r.NoSync(func() error { return r.Ready(2) }), "no parameter 2")
	require.Equal(t, 1, calls)
	stepWorks(t, r, 2)
}

// TestUnusedParametersAreFound: p0 is used by all ranks, p1 by rank 0, p2 by
// rank 1, p3 by none.
func TestUnusedParametersAreFound(t *testing.T) {
	groups := memoryGroups(2)
	noLeaks(t, func() {
		onRanks(2, func(rank int) {
			r, err := ddp.NewReducer(testutil.Soon(t), scalars(4), ddp.Options{Group: groups[rank], Unused: ddp.UnusedFind, BucketCapMB: twoFloats})
			if !assert.NoError(t, err) {
				return
			}
			defer r.Close()
			for step := range 3 {
				own := []float32{8, 8, 8, 8}
				var grads []*tensor.Tensor
				for i := range own {
					grads = append(grads, must(tensor.FromSlice(own[i:i+1])))
					defer grads[i].Close()
				}
				assert.NoError(t, r.ReadyFrom(0, grads[0]))
				assert.NoError(t, r.ReadyFrom(1+rank, grads[1+rank]))
				switch step { // found, declared, declared with memory
				case 1:
					assert.NoError(t, r.MarkUnused(3))
				case 2:
					assert.NoError(t, r.MarkUnusedInto(3, grads[3]))
					assert.NoError(t, r.MarkUnusedInto(2-rank, grads[2-rank]))
					assert.ErrorIs(t, r.Ready(3), ddp.ErrReadyTwice)
				}
				_, err := r.Wait(testutil.Soon(t))
				assert.NoError(t, err)
				for i, want := range []float32{8, 4, 4, 0} {
					assert.Equal(t, want, floats(r.Gradient(i))[0], "parameter %d", i)
					assert.Equal(t, want > 0, r.Used(i))
				}
				want := []float32{8, 4, 4, 8}
				if step < 2 {
					want[2-rank] = 8 // the reducer was not told of this memory
				}
				assert.Equal(t, want, own, "what no rank used is untouched")
			}
		})
	})
}

func TestMarkUnusedNeedsNoSearch(t *testing.T) {
	r := reducer(t, scalars(2), ddp.Options{})
	set(t, r, 1, 3)
	floats(r.Gradient(0))[0] = 5
	own := must(tensor.FromSlice([]float32{7}))
	defer own.Close()
	wrong := must(tensor.FromSlice([]float32{7, 7}))
	defer wrong.Close()
	require.ErrorContains(t, r.MarkUnusedInto(0, wrong), "gradient of p0: shape [2]")
	require.ErrorContains(t, r.MarkUnusedInto(0, nil), "gradient of p0: the tensor is nil")
	require.NoError(t, r.MarkUnusedInto(0, own))
	_, err := r.Wait(testutil.Soon(t))
	require.NoError(t, err)
	require.Zero(t, floats(r.Gradient(0))[0])
	require.Zero(t, floats(own)[0], "without UnusedFind it is a gradient of zero")
	require.True(t, r.Used(0))
}

// TestAStaticGraphCountsInTheFirstStep: p0 is shared and marked twice, p2 never.
func TestAStaticGraphCountsInTheFirstStep(t *testing.T) {
	own := []float32{0}
	grad := must(tensor.FromSlice(own))
	defer grad.Close()
	r := reducer(t, scalars(3), ddp.Options{Hook: hook{run: identity}, StaticGraph: true, BucketCapMB: tiny, Layout: ddp.LayoutRebuilt})
	for step := range 4 {
		want := [][]int{{0, 1, 2}}
		if step > 1 {
			want = [][]int{{2}, {1}, {0}}
		}
		require.Equal(t, want, r.Buckets(), "step %d", step)
		own[0] = 5
		floats(r.Gradient(2))[0] = 9
		require.NoError(t, r.ReadyFrom(0, grad))
		set(t, r, 1, 2)
		own[0] = 6
		require.NoError(t, r.ReadyFrom(0, grad))
		if step > 0 {
			require.ErrorIs(t, r.ReadyFrom(0, grad), ddp.ErrGraphChanged)
			require.ErrorContains(t, r.Ready(2), "marked 0 times in the first step and is marked once more")
		}
		_, err := r.Wait(testutil.Soon(t))
		require.NoError(t, err)
		for i, want := range []float32{6, 2, 0} {
			require.Equal(t, want, floats(r.Gradient(i))[0], "step %d, parameter %d", step, i)
		}
	}
	set(t, r, 1, 2)
	require.NoError(t, r.Ready(0))
	_, err := r.Wait(testutil.Soon(t))
	require.ErrorIs(t, err, ddp.ErrGraphChanged)
	require.ErrorContains(t, err, "p0: it was marked 2 times in the first step and 1 times in this one")
	require.ErrorContains(t, r.MarkUnused(2), "StaticGraph")
}

func TestAStaticGraphOverlapsAfterTheFirstStep(t *testing.T) {
	g := newGate()
	r := reducer(t, scalars(2), ddp.Options{Hook: g, StaticGraph: true, BucketCapMB: tiny, Order: ddp.OrderOverlapped})
	for step := range 2 {
		set(t, r, 1, 1)
		g.idle(t)
		set(t, r, 1, 1)
		if step == 0 {
			g.idle(t) // nobody knows that this was the last one
		} else {
			g.called(t, 0)
		}
		set(t, r, 0, 1)
		done := make(chan error)
		go func() {
			_, err := r.Wait(testutil.Soon(t))
			done <- err
		}()
		if step == 0 {
			g.called(t, 0)
		}
		g.called(t, 1)
		g.complete(0, r.Gradient(1), nil)
		g.complete(1, r.Gradient(0), nil)
		require.NoError(t, <-done)
	}
}

// A gradient that cannot be copied to the bucket and back is refused when it is given: also in NoSync,
// and with torch's operations, which would repeat its elements.
func TestReadyFrom_otherShape(t *testing.T) {
	for _, byTorch := range []bool{false, true} {
		opts := ddp.Options{Group: memoryGroups(1)[0], GroupMemory: byTorch}
		if byTorch {
			opts.Group = torchGroup{memoryGroups(1)[0]}
		}
		r := reducer(t, parameters([]int64{4}, []int64{2, 2}), opts)
		one, values := must(tensor.New(tensor.Float32, 1)), []float32{1, 2}
		repeated := must(tensor.FromSlice(values))
		defer one.Close()
		defer repeated.Close()
		view := must(repeated.View(0, []int64{2, 2}, []int64{0, 1}))
		defer view.Close()
		for i, given := range []*tensor.Tensor{one, view} {
			says := []string{"gradient of p0: shape [1] into [4]", "gradient of p1: gradients share memory, of which each needs its own: shape [2 2], strides [0 1]: its elements"}[i]
			require.ErrorContains(t, r.ReadyFrom(i, given), says)
			require.ErrorContains(t, r.MarkUnusedInto(i, given), says)
			require.NoError(t, r.NoSync(func() error {
				require.ErrorContains(t, r.ReadyFrom(i, given), says)
				return nil
			}))
		}
		require.NoError(t, errors.Join(r.MarkUnused(0), r.MarkUnused(1))) // with nothing of before
		_, err := r.Wait(testutil.Soon(t))
		require.NoError(t, err)
		require.Equal(t, []float32{1, 2}, values)
	}
}

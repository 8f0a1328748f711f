package memgroup_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/transport"
	"pyhook/c10d/transport/memgroup"
	"pyhook/tensor"
)

func TestGroup_ranksOutOfStepGetAnError(t *testing.T) {
	x := func(d tensor.DType, n int64) *tensor.Tensor {
		made, err := tensor.New(d, n)
		require.NoError(t, err)
		t.Cleanup(made.Close)
		return made
	}
	f4, f5, h4 := x(tensor.Float32, 4), x(tensor.Float32, 5), x(tensor.Float16, 4)
	type action func(*memgroup.Group) error
	reduce := func(of *tensor.Tensor, op c10d.ReduceOp) action {
		return func(g *memgroup.Group) error { return done(g.AllReduce(t.Context(), of, op)) }
	}
	for name, c := range map[string]struct {
		a, b         action
		mine, theirs string
	}{
		"another length":     {reduce(f4, c10d.Sum), reduce(f5, c10d.Sum), "float32 x4", "float32 x5"},
		"another dtype":      {reduce(f4, c10d.Sum), reduce(h4, c10d.Sum), "float32 x4", "float16 x4"},
		"another operation":  {reduce(f4, c10d.Sum), reduce(f4, c10d.Max), "SUM", "MAX"},
		"another collective": {reduce(f4, c10d.Sum), func(g *memgroup.Group) error { return done(g.Broadcast(t.Context(), f4, 0)) }, "all_reduce", "broadcast"},
		"a barrier":          {reduce(f4, c10d.Sum), func(g *memgroup.Group) error { return g.Barrier(t.Context()) }, "all_reduce", "barrier"},
	} {
		t.Run(name, func(t *testing.T) {
			groups := memgroup.New(3)
			errs := onAll(groups, func(rank int, g *memgroup.Group) error {
				if rank == 2 {
					return c.b(g)
				}
				return c.a(g)
			})
			for rank, err := range errs {
				var mismatch *transport.MismatchError
				require.ErrorAs(t, err, &mismatch, "rank %d", rank)
				require.ErrorIs(t, err, c10d.ErrGroup)
				require.ErrorIs(t, groups[rank].Err(), error(mismatch))
			}
			assert.ErrorContains(t, errs[0], c.mine)
			assert.ErrorContains(t, errs[0], "rank 2 calls")
			assert.ErrorContains(t, errs[0], c.theirs)
			// In step again, the group works.
			allOK(t, onAll(groups, func(_ int, g *memgroup.Group) error { return g.Barrier(t.Context()) }))
		})
	}
}

func TestAClosedRankFreesTheOthers(t *testing.T) {
	groups := memgroup.New(3)
	errs := onAll(groups, func(rank int, g *memgroup.Group) error {
		if rank == 1 {
			time.Sleep(20 * time.Millisecond)
			g.Close()
			g.Close()
			return g.Barrier(t.Context())
		}
		return g.Barrier(t.Context())
	})
	require.ErrorIs(t, errs[1], c10d.ErrClosed)
	for _, rank := range []int{0, 2} {
		var closed *memgroup.ClosedError
		require.ErrorAs(t, errs[rank], &closed, "%v", errs[rank])
		assert.Equal(t, 1, closed.Rank)
		require.ErrorIs(t, errs[rank], memgroup.ErrClosed)
		require.ErrorIs(t, errs[rank], c10d.ErrGroup)
	}
}

func TestACancelledContextEndsTheWait(t *testing.T) {
	groups := memgroup.New(2)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, groups[0].Barrier(ctx), context.DeadlineExceeded)
	_, err := groups[0].Broadcast(ctx, nil, 0)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	// The barrier counts all the same: the other rank's meets it.
	require.NoError(t, groups[1].Barrier(t.Context()))
	require.ErrorIs(t, groups[0].Recv(ctx, 1, transport.Tag{}, nil), context.DeadlineExceeded)
}

func TestATimeoutNamesTheRank(t *testing.T) {
	groups := memgroup.NewConfig(2, transport.Config{Timeout: 20 * time.Millisecond})
	err := groups[0].Barrier(t.Context())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "not done after 20ms")
	assert.ErrorContains(t, err, "rank 1")
}

// TestGroup_Renew_writes: after Renew no collective of the former generation writes to its tensors, whose
// future nobody need hold.
func TestGroup_Renew_writes(t *testing.T) {
	const elements = 1 << 21
	for round := range 20 {
		groups := memgroup.New(2)
		var ranks sync.WaitGroup
		for _, group := range groups {
			ranks.Go(func() {
				sum, err := tensor.New(tensor.Float32, elements)
				if !assert.NoError(t, err) {
					return
				}
				values, err := tensor.Slice[float32](sum)
				assert.NoError(t, err)
				for i := range values {
					values[i] = 1
				}
				future, err := group.AllReduce(t.Context(), sum, c10d.Sum)
				if !assert.NoError(t, err) {
					return
				}
				defer future.OnDone(func(*tensor.Tensor, error) { sum.Close() })
				time.Sleep(time.Duration(round) * 200 * time.Microsecond)
				assert.NoError(t, group.Renewal().Renew(t.Context()))
				clear(values)
				time.Sleep(5 * time.Millisecond)
				assert.False(t, slices.Contains(values, 2))
			})
		}
		ranks.Wait()
	}
}

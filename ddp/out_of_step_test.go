package ddp_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
)

// renewable is one rank of two, whose hooks here issue no collectives.
type renewable struct {
	*memoryGroup
	generation int
}

func (g *renewable) Renewal() c10d.Renewal         { return g }
func (g *renewable) Generation() int               { return g.generation }
func (g *renewable) Ranks() int                    { return g.Size() }
func (g *renewable) Retire()                       {}
func (g *renewable) Retired() bool                 { return false }
func (g *renewable) Renew(_ context.Context) error { g.generation++; return nil }

func TestReducer_OutOfStep(t *testing.T) {
	for _, how := range []string{"call", "no future", "future", "late future", "parse", "short", "shape", "nil"} {
		t.Run("a hook fails: "+how, func(t *testing.T) {
			group := &renewable{memoryGroup: memoryGroups(2)[0]}
			r := reducer(t, scalars(3), ddp.Options{Group: group, Hook: failing(t, how), BucketCapMB: tiny, SkipVerify: true})
			setAll(t, r, 3)
			_, failed := r.Wait(testutil.Soon(t))
			require.Error(t, failed)
			refused(t, r, failed)
			group.generation++ // all ranks made their group anew
			setAll(t, r, 3)
			_, err := r.Wait(testutil.Soon(t))
			require.NoError(t, err)
		})
	}
	t.Run("a parameter was not marked", func(t *testing.T) {
		r := reducer(t, scalars(2), ddp.Options{Group: memoryGroups(2)[0], Hook: hook{run: identity}, BucketCapMB: tiny, SkipVerify: true})
		require.NoError(t, r.Ready(1)) // the first bucket is launched
		_, failed := r.Wait(testutil.Soon(t))
		require.ErrorIs(t, failed, ddp.ErrNotReady)
		refused(t, r, failed)
	})
	t.Run("the context of Wait ended", func(t *testing.T) {
		g := newGate()
		r := reducer(t, scalars(2), ddp.Options{Group: memoryGroups(2)[0], Hook: g, BucketCapMB: tiny, Order: ddp.OrderOverlapped, SkipVerify: true})
		setAll(t, r, 2)
		g.called(t, 0)
		g.called(t, 1)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, failed := r.Wait(ended)
		require.ErrorIs(t, failed, context.Canceled)
		refused(t, r, failed)
		g.complete(0, nil, errBoom) // so that the memory of both buckets is let go of
		g.complete(1, nil, errBoom)
	})
	t.Run("but all ranks left the step alike where a valid result is refused", func(t *testing.T) {
		bad := true
		h := hook{run: func(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
			if bad {
				floats(b.Buffer())[0] = float32(math.NaN())
			}
			return identity(ctx, b)
		}}
		r := reducer(t, scalars(2), ddp.Options{Group: memoryGroups(2)[0], Hook: h, BucketCapMB: tiny, SkipVerify: true, CheckFinite: true})
		setAll(t, r, 2)
		_, err := r.Wait(testutil.Soon(t))
		require.ErrorIs(t, err, c10d.ErrNonFinite)
		bad = false
		setAll(t, r, 2)
		_, err = r.Wait(testutil.Soon(t))
		require.NoError(t, err)
	})
}

// refused sees that every way into the next step is closed, and says why.
func refused(t *testing.T, r *ddp.Reducer, cause error) {
	t.Helper()
	_, wait := r.Wait(testutil.Soon(t))
	for _, err := range []error{r.Ready(0), r.ReadyFrom(0, tensorOf(t, 1)), r.MarkUnused(0), wait, r.NoSync(func() error { return nil })} {
		require.ErrorIs(t, err, c10d.ErrOutOfStep)
		var out *ddp.OutOfStepError
		require.ErrorAs(t, err, &out)
		assert.Equal(t, cause, out.Cause)
		assert.Contains(t, err.Error(), cause.Error())
		assert.False(t, errors.Is(err, cause), "whoever skips a step that failed so must not skip this")
		assert.NotNil(t, r.Gradient(0))
	}
}

var _ c10d.RenewableGroup = (*renewable)(nil)

// Another Reducer's collectives would meet those of the failed step as well.
func TestReducer_OutOfStep_othersOverTheGroup(t *testing.T) {
	group := &renewable{memoryGroup: memoryGroups(2)[0]}
	opts := ddp.Options{Group: group, Hook: hook{run: identity}, BucketCapMB: tiny, SkipVerify: true}
	other := reducer(t, scalars(1), opts)
	opts.Hook = failing(t, "call")
	r := reducer(t, scalars(3), opts)
	setAll(t, r, 3)
	_, failed := r.Wait(testutil.Soon(t))
	require.Error(t, failed)
	refused(t, r, failed)
	require.ErrorIs(t, other.Ready(0), c10d.ErrOutOfStep, "one that was there")
	_, err := ddp.NewReducer(t.Context(), scalars(1), opts)
	require.ErrorIs(t, err, c10d.ErrOutOfStep, "a new one")
	params := scalars(1)
	require.ErrorIs(t, ddp.VerifyParameters(t.Context(), group, params), c10d.ErrOutOfStep)
	require.ErrorIs(t, ddp.BroadcastParameters(t.Context(), group, params), c10d.ErrOutOfStep)
	group.generation++
	require.NoError(t, other.Ready(0))
	_, err = other.Wait(testutil.Soon(t))
	require.NoError(t, err)
}

// A step that is under way when its Reducer is closed is left as one that failed.
func TestReducer_OutOfStep_closedInAStep(t *testing.T) {
	group := &renewable{memoryGroup: memoryGroups(2)[0]}
	opts := ddp.Options{Group: group, Hook: hook{run: identity}, BucketCapMB: tiny, SkipVerify: true}
	r := reducer(t, scalars(2), opts)
	r.Close()
	r = reducer(t, scalars(2), opts) // no step had begun
	require.NoError(t, r.Ready(1))   // the first bucket is launched
	time.Sleep(50 * time.Millisecond)
	r.Close()
	_, err := ddp.NewReducer(t.Context(), scalars(1), opts)
	require.ErrorIs(t, err, c10d.ErrOutOfStep)
}

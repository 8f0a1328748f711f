package ddp_test

import (
	"context"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
)

// endings are how an error tells that a context ended.
var endings = regexp.MustCompile(`context (canceled|deadline exceeded)`)

// TestReducer_Wait_namesTheEndOfAContextOnce by a step's error: the context of the hooks is cancelled
// because that of Wait ended.
func TestReducer_Wait_namesTheEndOfAContextOnce(t *testing.T) {
	for _, order := range []ddp.Order{ddp.OrderSerial, ddp.OrderOverlapped} {
		var mu sync.Mutex
		var late []func()
		h := hook{run: func(_ context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
			promise := &c10d.Promise[c10d.Result]{}
			promise.Init(nil, func(err error) error { // as a Python hook's
				return &c10d.Error{Op: "hook h", Rank: 0, Bucket: b.Index(), Code: c10d.ErrCanceled, Detail: err.Error(), Err: err}
			})
			mu.Lock()
			defer mu.Unlock()
			late = append(late, func() { promise.Complete(c10d.TensorResult{Tensor: b.Buffer()}, nil) })
			return promise.Future(), nil
		}}
		r := reducer(t, scalars(2), ddp.Options{Hook: h, BucketCapMB: tiny, Order: order})
		set(t, r, 1, 1)
		set(t, r, 0, 1)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		_, err := r.Wait(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, []string{"context deadline exceeded"}, endings.FindAllString(err.Error(), -1), "%v: %v", order, err)
		assert.Contains(t, err.Error(), "reducing bucket 0 ")
		mu.Lock()
		for _, complete := range late {
			complete()
		}
		mu.Unlock()
	}
}

package ddp_test

import (
	"context"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/ddp"
)

// endings are how an error tells that a context ended.
var endings = regexp.MustCompile(`context (canceled|deadline exceeded)`)

// TestTheEndOfAContextIsToldOnce by a step's error, however deep it was met: the context
// of the hooks is cancelled because that of Wait ended.
func TestTheEndOfAContextIsToldOnce(t *testing.T) {
	for _, hook := range []string{"hooks:never", "hooks:loops"} {
		for _, order := range []ddp.Order{ddp.Serial, ddp.Ordered, ddp.Overlapped} {
			r := reducer(t, scalars(2), ddp.Options{Group: world, Hook: python(t, hook, nil), BucketCapMB: tiny, Order: order})
			set(t, r, 1, 1)
			set(t, r, 0, 1)
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			_, err := r.Wait(ctx)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Equal(t, []string{"context deadline exceeded"}, endings.FindAllString(err.Error(), -1), "%s, %v: %v", hook, order, err)
			assert.Contains(t, err.Error(), "rank 0: reducing bucket 0 ")
		}
	}
}

package ctxerr_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"pyhook/internal/ctxerr"
)

func TestWhile(t *testing.T) {
	t.Run("the text names the cause once", func(t *testing.T) {
		deadline, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
		defer cancel()
		<-deadline.Done()
		derived, stop := context.WithCancelCause(context.Background())
		stop(context.Cause(deadline))
		boom := errors.New("boom")
		own, stop := context.WithCancelCause(context.Background())
		stop(boom)

		for ctx, want := range map[context.Context]string{
			deadline: "waiting: context deadline exceeded",
			derived:  "waiting: context deadline exceeded",
			own:      "waiting: boom",
		} {
			err := ctxerr.While(ctx, "waiting")
			assert.EqualError(t, err, want)
			assert.ErrorIs(t, err, ctx.Err())
			assert.ErrorIs(t, err, context.Cause(ctx))
		}
	})
}

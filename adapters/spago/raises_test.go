package spagoddp_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nlpodyssey/spago/optimizers/sgd"

	spagoddp "pyhook/adapters/spago"
	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/job"
	"pyhook/tests/ranks"
	"pyhook/tests/stock"
)

func TestSync_hookRaises(t *testing.T) {
	ranks.RunOptions(t, ranks.Options{N: 2, Case: "raises", Timeout: 2 * time.Minute})
}

func newModel(ctx context.Context, j *job.Job, hook c10d.CommHook) (*stock.Model, error) {
	m := newNet[float32](1)
	s, err := spagoddp.Wrap(ctx, m, ddp.Options{Group: j.Group(), Hook: hook, DigestEvery: 1})
	if err != nil {
		return nil, err
	}
	strategy := sgd.New[float32](sgd.NewConfig(0.5, 0, false))
	return &stock.Model{
		Reducer: s.Reducer(),
		Pass: func(step int) error {
			return errors.Join(s.Backward(loss[float32](m, sample(step, j.Rank()))), s.Wait(ctx))
		},
		Optimize: func() error { return s.Optimize(strategy) },
		Values:   func() [][]float32 { return values[float32](m) },
		Digest:   s.Digest,
		Close:    s.Unwrap,
	}, nil
}

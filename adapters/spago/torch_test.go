package spagoddp_test

import (
	"context"
	"errors"
	"testing"

	"github.com/nlpodyssey/spago/ag"
	"github.com/nlpodyssey/spago/nn"
	"github.com/nlpodyssey/spago/optimizers/sgd"

	spagoddp "pyhook/adapters/spago"
	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/tests/stock"
)

// TestSync_torchHooks: 2 and 4 real ranks with PyTorch's hooks over gloo. The gradients of spago without
// the adapter, for the same values and samples, go through stock DDP: the same reduced gradients,
// bit for bit.
func TestSync_torchHooks(t *testing.T) { stock.Run(t) }

func trainNoting(ctx context.Context, group c10d.ProcessGroup, hook c10d.CommHook, d *stock.Dump) (digest, err error) {
	m, twin := newNet[float32](1), newNet[float32](1)
	// The sums of 3 ranks and more depend on the layout: stock DDP's, whose gradients come last first.
	s, err := spagoddp.Wrap(ctx, m, ddp.Options{Group: group, Hook: hook, Layout: ddp.LayoutRebuilt, Buckets: [][]int{{5, 4, 3, 2, 1, 0}}})
	if err != nil {
		return nil, err
	}
	defer s.Unwrap()
	d.Of(s.Parameters())
	strategy := sgd.New[float32](sgd.NewConfig(0.5, 0, false))
	for step := range 5 {
		setValues(twin, values[float32](m))
		if err := ag.Backward(loss[float32](twin, sample(step, group.Rank()))); err != nil {
			return nil, err
		}
		stock.Before(d, values[float32](twin), gradients[float32](twin))
		nn.ZeroGrad(twin)
		if err := errors.Join(s.Backward(loss[float32](m, sample(step, group.Rank()))), s.Wait(ctx)); err != nil {
			return nil, err
		}
		stock.After(d, gradients[float32](m))
		if err := s.Optimize(strategy); err != nil {
			return nil, err
		}
	}
	return s.Digest(ctx), nil
}

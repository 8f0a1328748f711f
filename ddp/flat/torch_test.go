package flat_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/ddp/flat"
	"pyhook/tests/stock"
)

// TestSync_torchHooks: 2 and 4 real ranks with PyTorch's hooks over gloo, and the same steps in stock
// DDP.
func TestSync_torchHooks(t *testing.T) { stock.Run(t) }

// trainNoting trains with gradients that are random and depend on the values.
func trainNoting(ctx context.Context, group c10d.ProcessGroup, hook c10d.CommHook, d *stock.Dump) (digest, err error) {
	m := newModel[float32]()
	eighths(m.values, 5)
	s, err := flat.New(ctx, m.params(), ddp.Options{Group: group, Hook: hook, Layout: ddp.LayoutRebuilt})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	d.Of(s.Parameters())
	random := rand.New(rand.NewPCG(uint64(group.Rank()), 11))
	for range 5 {
		for i := range m.grads {
			for k := range m.grads[i] {
				m.grads[i][k] = m.values[i][k]*0.1 + float32(random.NormFloat64())
			}
		}
		stock.Before(d, m.values, m.grads)
		if err := s.Step(ctx); err != nil {
			return nil, err
		}
		stock.After(d, m.grads)
		m.descend()
	}
	return s.Digest(ctx), nil
}

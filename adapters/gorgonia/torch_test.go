package gorgoniaddp_test

import (
	"context"
	"testing"

	"gorgonia.org/gorgonia"

	gorgoniaddp "pyhook/adapters/gorgonia"
	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/tests/stock"
)

// TestSync_torchHooks: 2 and 4 real ranks with PyTorch's hooks over gloo. The gradients before the
// reduction go through stock DDP: the same reduced gradients, bit for bit.
func TestSync_torchHooks(t *testing.T) { stock.Run(t) }

// toNote is a solver that notes what it is given.
type toNote struct {
	gorgonia.Solver
	after func() error
}

func (s toNote) Step(model []gorgonia.ValueGrad) error {
	if err := s.after(); err != nil {
		return err
	}
	return s.Solver.Step(model)
}

func trainNoting(ctx context.Context, group c10d.ProcessGroup, hook c10d.CommHook, d *stock.Dump) (digest, err error) {
	n, err := newNet[float32](1, true)
	if err != nil {
		return nil, err
	}
	s, err := gorgoniaddp.New(ctx, n.learnables, ddp.Options{Group: group, Hook: hook, Layout: ddp.LayoutRebuilt})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	d.Of(s.Parameters())
	solver := s.Solver(ctx, toNote{gorgonia.NewVanillaSolver(gorgonia.WithLearnRate(0.1)), func() error {
		grads, err := n.gradients()
		stock.After(d, grads)
		return err
	}})
	for step := range 5 {
		if err := n.run(sample(step, group.Rank())); err != nil {
			return nil, err
		}
		grads, err := n.gradients()
		if err != nil {
			return nil, err
		}
		stock.Before(d, n.values(), grads)
		if err := solver.Step(gorgonia.NodesToValueGrads(n.learnables)); err != nil {
			return nil, err
		}
	}
	return s.Digest(ctx), nil
}

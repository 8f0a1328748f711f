package flat_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pyhook/ddp"
	"pyhook/ddp/flat"
	"pyhook/pyhook"
	"pyhook/tests/ranks"
	"pyhook/tests/stock"
)

// TestSync_torchHooks: 2 and 4 real ranks with PyTorch's hooks over gloo, and the same steps in stock
// DDP.
func TestSync_torchHooks(t *testing.T) {
	hooks := stock.HooksHere(t)
	for _, n := range []int{2, 4} {
		t.Run(fmt.Sprintf("%d ranks", n), func(t *testing.T) {
			job := ranks.RunOptions(t, ranks.Options{N: n, Case: "hooks", Args: hooks, Timeout: 5 * time.Minute})
			stock.Compare(t, job.Dir, n, hooks)
		})
	}
}

func torchHooks(ctx context.Context, rank *ranks.Rank) error {
	var hooks []string
	if err := rank.Args(&hooks); err != nil {
		return err
	}
	rt, err := pyhook.Start(ctx, pyhook.Config{})
	if err != nil {
		return err
	}
	world, err := rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "gloo", Timeout: time.Minute})
	if err != nil {
		return err
	}
	for _, name := range hooks {
		if err := dumpSteps(ctx, rt, world, name, rank.Dir); err != nil {
			return err
		}
	}
	return world.Barrier(ctx)
}

// dumpSteps trains with gradients that are random and depend on the values.
func dumpSteps(ctx context.Context, rt *pyhook.Runtime, world *pyhook.TorchGroup, name, folder string) error {
	hook, free, err := stock.NewHook(ctx, rt, name)
	if err != nil {
		return err
	}
	defer free()
	m := newModel[float32]()
	eighths(m.values, 5)
	s, err := flat.New(ctx, m.params(), ddp.Options{Group: world, Hook: hook, Layout: ddp.LayoutRebuilt})
	if err != nil {
		return err
	}
	defer s.Close()
	dump := stock.NewDump(name, world.Rank(), s.Parameters())
	random := rand.New(rand.NewPCG(uint64(world.Rank()), 11))
	for range 5 {
		for i := range m.grads {
			for k := range m.grads[i] {
				m.grads[i][k] = m.values[i][k]*0.1 + float32(random.NormFloat64())
			}
		}
		stock.Before(dump, m.values, m.grads)
		if err := s.Step(ctx); err != nil {
			return err
		}
		stock.After(dump, m.grads)
		m.descend()
	}
	return errors.Join(stock.Alike(name, s.Digest(ctx)), dump.Write(folder))
}

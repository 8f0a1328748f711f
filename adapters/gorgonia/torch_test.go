package gorgoniaddp_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"gorgonia.org/gorgonia"

	gorgoniaddp "pyhook/adapters/gorgonia"
	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tests/ranks"
	"pyhook/tests/stock"
)

// TestSync_torchHooks: 2 and 4 real ranks with PyTorch's hooks over gloo. The gradients before the
// reduction go through stock DDP: the same reduced gradients, bit for bit.
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
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return world.Barrier(ctx)
}

// toDump is a solver that writes down what it is given.
type toDump struct {
	gorgonia.Solver
	after func() error
}

func (s toDump) Step(model []gorgonia.ValueGrad) error {
	if err := s.after(); err != nil {
		return err
	}
	return s.Solver.Step(model)
}

func dumpSteps(ctx context.Context, rt *pyhook.Runtime, world *pyhook.TorchGroup, name, folder string) error {
	hook, free, err := stock.NewHook(ctx, rt, name)
	if err != nil {
		return err
	}
	defer free()
	n, err := newNet[float32](1, true)
	if err != nil {
		return err
	}
	s, err := gorgoniaddp.New(ctx, n.learnables, ddp.Options{Group: world, Hook: hook, Layout: ddp.LayoutRebuilt})
	if err != nil {
		return err
	}
	defer s.Close()
	dump := stock.NewDump(name, world.Rank(), s.Parameters())
	solver := s.Solver(ctx, toDump{gorgonia.NewVanillaSolver(gorgonia.WithLearnRate(0.1)), func() error {
		grads, err := n.gradients()
		stock.After(dump, grads)
		return err
	}})
	start := n.values()
	for step := range 5 {
		if err := n.run(sample(step, world.Rank())); err != nil {
			return err
		}
		grads, err := n.gradients()
		if err != nil {
			return err
		}
		stock.Before(dump, n.values(), grads)
		if err := solver.Step(gorgonia.NodesToValueGrads(n.learnables)); err != nil {
			return err
		}
	}
	err = stock.Alike(name, s.Digest(ctx))
	if assert.ObjectsAreEqual(start, n.values()) {
		err = errors.Join(err, errors.New("nothing was trained"))
	}
	return errors.Join(err, dump.Write(folder))
}

package spagoddp_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nlpodyssey/spago/ag"
	"github.com/nlpodyssey/spago/nn"
	"github.com/nlpodyssey/spago/optimizers/sgd"
	"github.com/stretchr/testify/assert"

	spagoddp "pyhook/adapters/spago"
	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tests/ranks"
	"pyhook/tests/stock"
)

// TestSync_torchHooks: 2 and 4 real ranks with PyTorch's hooks over gloo. The gradients of spago without
// the adapter, for the same values and samples, go through stock DDP: the same reduced gradients,
// bit for bit.
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

func dumpSteps(ctx context.Context, rt *pyhook.Runtime, world *pyhook.TorchGroup, name, folder string) error {
	hook, free, err := stock.NewHook(ctx, rt, name)
	if err != nil {
		return err
	}
	defer free()
	m, twin := newNet[float32](1), newNet[float32](1)
	// The sums of 3 ranks and more depend on the layout: stock DDP's, whose gradients come last first.
	s, err := spagoddp.Wrap(ctx, m, ddp.Options{Group: world, Hook: hook, Layout: ddp.LayoutRebuilt, Buckets: [][]int{{5, 4, 3, 2, 1, 0}}})
	if err != nil {
		return err
	}
	defer s.Unwrap()
	dump := stock.NewDump(name, world.Rank(), s.Parameters())
	strategy := sgd.New[float32](sgd.NewConfig(0.5, 0, false))
	for step := range 5 {
		setValues(twin, values[float32](m))
		if err := ag.Backward(loss[float32](twin, sample(step, world.Rank()))); err != nil {
			return err
		}
		stock.Before(dump, values[float32](twin), gradients[float32](twin))
		nn.ZeroGrad(twin)
		if err := errors.Join(s.Backward(loss[float32](m, sample(step, world.Rank()))), s.Wait(ctx)); err != nil {
			return err
		}
		stock.After(dump, gradients[float32](m))
		if err := s.Optimize(strategy); err != nil {
			return err
		}
	}
	err = stock.Alike(name, s.Digest(ctx))
	if assert.ObjectsAreEqual(values[float32](newNet[float32](1)), values[float32](m)) {
		err = errors.Join(err, errors.New("nothing was trained"))
	}
	return errors.Join(err, dump.Write(folder))
}

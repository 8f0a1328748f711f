package gomlxddp_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	. "github.com/gomlx/gomlx/pkg/core/graph"
	"github.com/gomlx/gomlx/pkg/core/tensors"
	mlctx "github.com/gomlx/gomlx/pkg/ml/context"
	"github.com/gomlx/gomlx/pkg/ml/train"
	"github.com/stretchr/testify/assert"

	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/ranks"
	"pyhook/tests/stock"
)

// TestOptimizer_torchHooks: 2 and 4 real ranks with PyTorch's hooks over gloo. The gradients before
// the reduction go through stock DDP: the same reduced gradients, bit for bit.
func TestOptimizer_torchHooks(t *testing.T) {
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
	n := newNet(1, sgd(), true, func(n *net) {
		n.vectors = true
		n.extra = func(_ *mlctx.Context, out *Node) *Node { return MulScalar(out, 0.2) } // or the hook's own steps diverge
	})
	var dump *stock.Dump
	var start, before [][]float32
	n.newLoop()
	n.loop.OnStep("before", -1, func(*train.Loop, []*tensors.Tensor) error {
		if dump == nil {
			dump, start = stock.NewDump(name, world.Rank(), n.opt.Parameters()), elements[float32](n)
		}
		before = nil
		for _, path := range trained {
			scope, variable := mlctx.SplitScope("/ddp_grads" + path)
			before = append(before, tensors.MustCopyFlatData[float32](n.ctx.GetVariableByScopeAndName(scope, variable).MustValue()))
		}
		stock.Before(dump, elements[float32](n), before)
		return nil
	})
	if err := n.opt.Open(ctx, n.ctx, ddp.Options{Group: world, Hook: hook, Layout: ddp.LayoutRebuilt}); err != nil {
		return err
	}
	defer n.opt.Close()
	n.loop.OnStep("ddp", 0, func(*train.Loop, []*tensors.Tensor) error { return n.opt.Sync(ctx) })
	n.loop.OnStep("after", 1, func(*train.Loop, []*tensors.Tensor) error {
		var reduced [][]float32
		for i := range trained {
			view, err := tensor.Slice[float32](n.opt.Reducer().Gradient(i))
			if err != nil {
				return err
			}
			reduced = append(reduced, view)
		}
		stock.After(dump, reduced)
		return nil
	})
	if err := n.run(samples(world.Rank(), 0, 5), 5); err != nil {
		return err
	}
	err = stock.Alike(name, n.opt.Digest(ctx))
	if assert.ObjectsAreEqual(start, elements[float32](n)) {
		err = errors.Join(err, errors.New("nothing was trained"))
	}
	return errors.Join(err, dump.Write(folder))
}

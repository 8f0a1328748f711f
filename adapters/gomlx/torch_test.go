package gomlxddp_test

import (
	"context"
	"testing"

	. "github.com/gomlx/gomlx/pkg/core/graph"
	"github.com/gomlx/gomlx/pkg/core/tensors"
	mlctx "github.com/gomlx/gomlx/pkg/ml/context"
	"github.com/gomlx/gomlx/pkg/ml/train"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/tensor"
	"pyhook/tests/stock"
)

// TestOptimizer_torchHooks: 2 and 4 real ranks with PyTorch's hooks over gloo. The gradients before
// the reduction go through stock DDP: the same reduced gradients, bit for bit.
func TestOptimizer_torchHooks(t *testing.T) { stock.Run(t) }

func trainNoting(ctx context.Context, group c10d.ProcessGroup, hook c10d.CommHook, d *stock.Dump) (digest, err error) {
	n := newNet(1, sgd(), true, func(n *net) {
		n.vectors = true
		n.extra = func(_ *mlctx.Context, out *Node) *Node { return MulScalar(out, 0.2) } // or the hook's own steps diverge
	})
	n.newLoop()
	n.loop.OnStep("before", -1, func(*train.Loop, []*tensors.Tensor) error {
		d.Of(n.opt.Parameters())
		var before [][]float32
		for _, path := range trained {
			scope, variable := mlctx.SplitScope("/ddp_grads" + path)
			before = append(before, tensors.MustCopyFlatData[float32](n.ctx.GetVariableByScopeAndName(scope, variable).MustValue()))
		}
		stock.Before(d, elements[float32](n), before)
		return nil
	})
	if err := n.opt.Open(ctx, n.ctx, ddp.Options{Group: group, Hook: hook, Layout: ddp.LayoutRebuilt}); err != nil {
		return nil, err
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
		stock.After(d, reduced)
		return nil
	})
	if err := n.run(samples(group.Rank(), 0, 5), 5); err != nil {
		return nil, err
	}
	return n.opt.Digest(ctx), nil
}

package gomlxddp_test

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/gomlx/gomlx/backends/simplego"
	. "github.com/gomlx/gomlx/pkg/core/graph"
	"github.com/gomlx/gomlx/pkg/core/tensors"
	mlctx "github.com/gomlx/gomlx/pkg/ml/context"
	"github.com/gomlx/gomlx/pkg/ml/train"
	"github.com/gomlx/gomlx/pkg/ml/train/losses"
	"github.com/gomlx/gomlx/pkg/ml/train/optimizers"

	gomlxddp "pyhook/adapters/gomlx"
	"pyhook/c10d"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
)

// points is an epoch of a point on each rank: 1 at 0, and 3 at 1.
type points struct{ given int }

func (p *points) Name() string { return "points" }
func (p *points) Reset()       { p.given = 0 }
func (p *points) Yield() (spec any, inputs, labels []*tensors.Tensor, err error) {
	if p.given == 2 {
		return nil, nil, nil, io.EOF
	}
	x, y := float32(p.given), float32(1+2*p.given)
	p.given++
	return nil, []*tensors.Tensor{tensors.FromValue([]float32{x})}, []*tensors.Tensor{tensors.FromValue([]float32{y})}, nil
}

// Two ranks, here goroutines, fit a line y = wx + b to a point each.
func Example() {
	ctx := context.Background()
	line := func(root *mlctx.Context, _ any, inputs []*Node) []*Node {
		g := inputs[0].Graph()
		w, b := root.VariableWithValue("w", float32(0)), root.VariableWithValue("b", float32(0))
		return []*Node{Add(Mul(inputs[0], w.ValueGraph(g)), b.ValueGraph(g))}
	}
	fit := func(group c10d.ProcessGroup) error {
		backend, err := simplego.New("ops_sequential")
		if err != nil {
			return err
		}
		root := mlctx.New()
		opt := gomlxddp.Wrap(optimizers.StochasticGradientDescent().WithDecay(false).WithLearningRate(0.5).Done())
		loop := train.NewLoop(train.NewTrainer(backend, root, line, losses.MeanSquaredError, opt, nil, nil))
		if err := opt.Attach(ctx, loop, ddp.Options{Group: group}); err != nil {
			return err
		}
		defer opt.Close()
		if _, err := loop.RunEpochs(gomlxddp.Shard(&points{}, group.Rank(), group.Size()), 100); err != nil {
			return err
		}
		if group.Rank() == 0 {
			w, b := root.GetVariableByScopeAndName("/", "w"), root.GetVariableByScopeAndName("/", "b")
			fmt.Printf("y = %.2fx + %.2f\n", w.MustValue().Value(), b.MustValue().Value())
		}
		return opt.Digest(ctx)
	}
	groups, errs := memgroup.New(2), make(chan error)
	for _, group := range groups {
		go func() { errs <- fit(group) }()
	}
	if err := errors.Join(<-errs, <-errs); err != nil {
		fmt.Println(err)
	}
	// Output: y = 2.00x + 1.00
}

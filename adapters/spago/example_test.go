package spagoddp_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/nlpodyssey/spago/ag"
	"github.com/nlpodyssey/spago/losses"
	"github.com/nlpodyssey/spago/mat"
	"github.com/nlpodyssey/spago/nn/linear"
	"github.com/nlpodyssey/spago/optimizers/sgd"

	spagoddp "pyhook/adapters/spago"
	"pyhook/c10d"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
)

// Two ranks, here goroutines, fit a line y = wx + b to a point each: 1 at 0, and 3 at 1.
func Example() {
	ctx := context.Background()
	train := func(group c10d.ProcessGroup) error {
		x, y := float32(group.Rank()), float32(1+2*group.Rank())
		model := linear.New[float32](1, 1)
		s, err := spagoddp.Wrap(ctx, model, ddp.Options{Group: group})
		if err != nil {
			return err
		}
		defer s.Unwrap()
		strategy := sgd.New[float32](sgd.NewConfig(1, 0, false))
		for range 100 {
			loss := losses.MSE(model.Forward(mat.Scalar(x))[0], mat.Scalar(y), true)
			if err := s.Backward(loss); err != nil {
				return err
			}
			if err := s.Wait(ctx); err != nil {
				return err
			}
			if err := s.Optimize(strategy); err != nil {
				return err
			}
		}
		if group.Rank() == 0 {
			fmt.Printf("y = %.2fx + %.2f\n", model.W.Item().F32(), model.B.Item().F32())
		}
		return s.Digest(ctx)
	}
	groups, errs := memgroup.New(2), make(chan error)
	for _, group := range groups {
		go func() { errs <- train(group) }()
	}
	if err := errors.Join(<-errs, <-errs); err != nil {
		fmt.Println(err)
	}
	// Output: y = 2.00x + 1.00
}

// Samples of a batch one after another: all but the last in NoSync.
func ExampleSync_NoSync() {
	ctx := context.Background()
	model := linear.New[float32](1, 1)
	s, err := spagoddp.Wrap(ctx, model, ddp.Options{Group: memgroup.New(1)[0]})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Unwrap()
	batch := []float32{1, 2, 3}
	loss := func(x float32) mat.Tensor { return ag.ReduceSum(model.Forward(mat.Scalar(x))[0]) }
	last := len(batch) - 1
	err = s.NoSync(func() error {
		for _, x := range batch[:last] {
			if err := s.Backward(loss(x)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, s.Backward(loss(batch[last])), s.Wait(ctx)); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(model.W.Grad().Item().F32(), model.B.Grad().Item().F32())
	// Output: 6 3
}

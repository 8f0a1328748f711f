package flat_test

import (
	"context"
	"errors"
	"fmt"

	"pyhook/c10d"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/ddp/flat"
)

// Two ranks, here goroutines, fit a line y = wx + b to a point each: 1 at 0, and 3 at 1.
func Example() {
	ctx := context.Background()
	train := func(group c10d.ProcessGroup) error {
		x, y := float32(group.Rank()), float32(1+2*group.Rank())
		wb, grad := make([]float32, 2), make([]float32, 2)
		s, err := flat.New(ctx, []flat.Param[float32]{{Name: "wb", Value: &wb, Grad: &grad}}, ddp.Options{Group: group})
		if err != nil {
			return err
		}
		defer s.Close()
		for range 100 {
			miss := wb[0]*x + wb[1] - y
			grad[0], grad[1] = miss*x, miss     // of this rank's point
			if err := s.Step(ctx); err != nil { // of both
				return err
			}
			wb[0], wb[1] = wb[0]-grad[0], wb[1]-grad[1]
		}
		if group.Rank() == 0 {
			fmt.Printf("y = %.2fx + %.2f\n", wb[0], wb[1])
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

package flat_test

import (
	"context"
	"errors"
	"fmt"

	"gonum.org/v1/gonum/mat"

	"pyhook/c10d"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/ddp/flat"
)

// A least-squares fit with gonum, by two ranks, here goroutines, with two points each of y = 2x +
// 1. This is the recipe of docs/trainers.md.
func ExampleNew_gonum() {
	ctx := context.Background()
	train := func(group c10d.ProcessGroup) error {
		first := 2 * float64(group.Rank())
		x := mat.NewDense(2, 2, []float64{first, 1, first + 1, 1})
		y := mat.NewVecDense(2, []float64{2*first + 1, 2*first + 3})

		w, grad := mat.NewVecDense(2, nil), mat.NewVecDense(2, nil)
		value, slope := w.RawVector().Data, grad.RawVector().Data // both have Inc 1: no gaps
		s, err := flat.New(ctx, []flat.Param[float64]{{Name: "w", Value: &value, Grad: &slope}}, ddp.Options{Group: group})
		if err != nil {
			return err
		}
		defer s.Close()
		var miss mat.VecDense
		for range 500 {
			miss.MulVec(x, w)
			miss.SubVec(&miss, y)
			grad.MulVec(x.T(), &miss)
			if err := s.Step(ctx); err != nil { // grad is now the mean over the ranks
				return err
			}
			w.AddScaledVec(w, -0.2, grad)
		}
		if group.Rank() == 0 {
			fmt.Printf("%.3f\n", value)
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
	// Output: [2.000 1.000]
}

package gorgoniaddp_test

import (
	"context"
	"errors"
	"fmt"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	gorgoniaddp "pyhook/adapters/gorgonia"
	"pyhook/c10d"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
)

// Two ranks, here goroutines, fit a line y = wx + b to a point each: 1 at 0, and 3 at 1.
func Example() {
	ctx := context.Background()
	train := func(group c10d.ProcessGroup) error {
		g := gorgonia.NewGraph()
		row := gorgonia.NewVector(g, tensor.Float32, gorgonia.WithShape(2), gorgonia.WithName("x1"))
		y := gorgonia.NewScalar(g, tensor.Float32, gorgonia.WithName("y"))
		wb := gorgonia.NewVector(g, tensor.Float32, gorgonia.WithShape(2), gorgonia.WithName("wb"), gorgonia.WithInit(gorgonia.Zeroes()))
		cost := gorgonia.Must(gorgonia.Square(gorgonia.Must(gorgonia.Sub(gorgonia.Must(gorgonia.Mul(row, wb)), y))))
		learnables := gorgonia.Nodes{wb}
		if _, err := gorgonia.Grad(cost, learnables...); err != nil {
			return err
		}
		vm := gorgonia.NewTapeMachine(g, gorgonia.BindDualValues(learnables...))
		defer vm.Close()

		s, err := gorgoniaddp.New(ctx, learnables, ddp.Options{Group: group})
		if err != nil {
			return err
		}
		defer s.Close()
		solver := s.Solver(ctx, gorgonia.NewVanillaSolver(gorgonia.WithLearnRate(0.5)))

		point := tensor.New(tensor.WithBacking([]float32{float32(group.Rank()), 1}))
		if err := errors.Join(gorgonia.Let(row, point), gorgonia.Let(y, float32(1+2*group.Rank()))); err != nil {
			return err
		}
		for range 200 {
			if err := vm.RunAll(); err != nil {
				return err
			}
			if err := solver.Step(gorgonia.NodesToValueGrads(learnables)); err != nil {
				return err
			}
			vm.Reset()
		}
		if group.Rank() == 0 {
			fmt.Printf("wb = %.2f\n", wb.Value().Data())
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
	// Output: wb = [2.00 1.00]
}

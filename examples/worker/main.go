// Worker runs a hook in a process of its own, which dies once. ddp.Retry has every rank start its
// worker again and does the lost step again: the weight is that of a run in which nothing happened.
//
//	go run ./examples/worker     # alone, or under any launcher: see examples/minimal
package main

import (
	"context"
	"fmt"
	"log"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/launch"
	"pyhook/tensor"
	"pyhook/worker"
)

func main() {
	worker.Main() // first: a worker is this program again, and goes no further
	ctx := context.Background()
	world := must(launch.Detect(launch.Options{}))
	check(world.Export())
	w := must(worker.Start(ctx, worker.Config{}))
	defer w.Close()
	hook := must(w.NewHook(ctx, "examples/worker/hooks.py:dies_once", worker.HookConfig{}))
	defer hook.Close()
	params := []*c10d.Parameter{{Name: "w", Shape: []int64{1}, DType: tensor.Float32}}
	reducer := must(ddp.NewReducer(ctx, params, ddp.Options{Group: w.Group(), Hook: hook}))
	defer reducer.Close()

	weight, tries := float32(0), 0
	for range 5 {
		var grad []float32
		check(ddp.Retry(ctx, reducer, func() error {
			tries++
			grad = must(tensor.Slice[float32](reducer.Gradient(0)))
			grad[0] = weight - float32(8*(world.Rank+1)) // the backward pass of a real trainer
			if err := reducer.Ready(0); err != nil {
				return err
			}
			_, err := reducer.Wait(ctx)
			return err
		}))
		weight -= grad[0] / 2 // the optimiser
	}
	fmt.Printf("rank %d of %d: weight %v after 5 steps, tried %d times\n", world.Rank, world.Size, weight, tries)
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

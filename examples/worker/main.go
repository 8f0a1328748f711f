// Worker runs a hook in a process of its own, which dies once. ddp.Retry has every rank start its
// worker again and does the lost step again: the weight is that of a run in which nothing happened.
//
//	go run ./examples/worker     # alone, or under any launcher: see examples/minimal
package main

import (
	"context"
	"fmt"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/job"
	"pyhook/tensor"
	"pyhook/worker"
)

// main starts the worker too, which is this program again and goes no further than Main.
func main() { job.Config{Worker: &worker.Config{}}.Main(train) }

func train(ctx context.Context, j *job.Job) error {
	hook := job.Must(j.Hook(ctx, "examples/worker/hooks.py:dies_once"))
	params := []*c10d.Parameter{{Name: "w", Shape: []int64{1}, DType: tensor.Float32}}
	reducer := job.Must(j.DDP(ctx, params, ddp.Options{Hook: hook}))

	weight, tries := float32(0), 0
	for range 5 {
		var grad []float32
		job.Check(ddp.Retry(ctx, reducer, func() error {
			tries++
			grad = job.Must(tensor.Slice[float32](reducer.Gradient(0)))
			grad[0] = weight - float32(8*(j.Rank()+1)) // the backward pass of a real trainer
			if err := reducer.Ready(0); err != nil {
				return err
			}
			_, err := reducer.Wait(ctx)
			return err
		}))
		weight -= grad[0] / 2 // the optimiser
	}
	fmt.Printf("rank %d of %d: weight %v after 5 steps, tried %d times\n", j.Rank(), j.Size(), weight, tries)
	return nil
}

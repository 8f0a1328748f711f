// Uneven trains on ranks that have different numbers of batches: rank r has r+1. A rank that has no
// more goes on with gradients of zero (Join) until all are done, and then gets the last one's model.
//
//	go run ./examples/uneven     # alone, or under any launcher: see examples/minimal
package main

import (
	"context"
	"fmt"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/job"
	"pyhook/tensor"
)

func main() { job.Main(train) }

func train(ctx context.Context, j *job.Job) error {
	hook := job.Must(j.Hook(ctx, "allreduce"))
	weight := []float32{10}
	data := job.Must(tensor.FromSlice(weight)) // the same memory
	defer data.Close()
	params := []*c10d.Parameter{{Name: "w", Shape: []int64{1}, DType: tensor.Float32, Data: data}}
	reducer := job.Must(j.DDP(ctx, params, ddp.Options{Hook: hook, Join: true}))

	batches := j.Rank() + 1
	for range batches {
		grad := job.Must(tensor.Slice[float32](reducer.Gradient(0)))
		grad[0] = float32(j.Rank() + 1) // the backward pass of a real trainer
		job.Check(reducer.Ready(0))
		job.Must(reducer.Wait(ctx))
		weight[0] -= grad[0] // the optimiser
	}
	own := weight[0]
	last := job.Must(reducer.Join(ctx)) // a rank that had data in the last step
	job.Check(ddp.BroadcastParametersFrom(ctx, j.Group(), last, params))
	fmt.Printf("rank %d of %d: weight %v after %d batches of its own, %v at the end\n",
		j.Rank(), j.Size(), own, batches, weight[0])
	return nil
}

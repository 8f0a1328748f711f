// Sparse averages the gradient of an embedding: only the rows that a rank used travel.
//
//	go run ./examples/sparse     # alone, or under any launcher: see examples/minimal
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
	hook := job.Must(j.Hook(ctx, "allreduce")) // one that takes sparse gradients
	embedding := &c10d.Parameter{Name: "embedding", Shape: []int64{1000, 2}, DType: tensor.Float32, Sparse: true}
	reducer := job.Must(j.DDP(ctx, []*c10d.Parameter{embedding}, ddp.Options{Hook: hook}))

	// This rank's batch used row 7, as those of all ranks did, and twice a row of its own.
	own, g := int64(100+j.Rank()), float32(j.Rank()+1)
	gradient := &c10d.SparseGradient{
		Indices: job.Must(tensor.FromSlice([]int64{own, 7, own}, 1, 3)),
		Values:  job.Must(tensor.FromSlice([]float32{g, g, 4, 8, g, g}, 3, 2)),
	}
	defer gradient.Close()
	job.Check(reducer.ReadySparse(0, gradient))
	job.Must(reducer.Wait(ctx))
	reduced := reducer.SparseGradient(0) // sorted, each row once, until the next Wait
	rows, values := job.Must(tensor.Slice[int64](reduced.Indices)), job.Must(tensor.Slice[float32](reduced.Values))
	for i, row := range rows {
		fmt.Printf("rank %d of %d: mean of row %d is %v\n", j.Rank(), j.Size(), row, values[2*i:2*i+2])
	}
	return nil
}

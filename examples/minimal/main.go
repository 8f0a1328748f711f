// Minimal is pyhook in one step: every rank has a gradient in Go memory, and
// PyTorch's own fp16_compress_hook averages them.
//
//	torchrun --no_python --nproc_per_node 2 ./minimal     # or any launcher, or none
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
	params := []*c10d.Parameter{{Name: "w", Shape: []int64{2, 3}, DType: tensor.Float32}}
	hook := job.Must(j.Hook(ctx, "fp16")) // or "my_hooks.py:my_hook"
	model := job.Must(j.DDP(ctx, params, ddp.Options{Hook: hook}))
	grad := job.Must(tensor.Slice[float32](model.Gradient(0))) // Python sees the same memory
	for i := range grad {                                      // the backward pass of a real trainer
		grad[i] = float32(j.Rank() + i)
	}
	job.Check(model.Ready(0)) // the hook starts here, on a goroutine of the reducer
	job.Must(model.Wait(ctx))
	fmt.Printf("rank %d of %d: mean gradient %v\n", j.Rank(), j.Size(), grad)
	return nil
}

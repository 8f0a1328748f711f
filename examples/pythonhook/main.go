// Pythonhook runs a hook of your own, with a state made from a class: see hooks.py beside this file.
//
//	go run ./examples/pythonhook     # alone, or under any launcher: see examples/minimal
package main

import (
	"context"
	"fmt"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/job"
	"pyhook/pyhook"
	"pyhook/tensor"
)

const file = "examples/pythonhook/hooks.py" // seen from where the program is started

func main() { job.Main(train) }

func train(ctx context.Context, j *job.Job) error {
	state := pyhook.StateSpec{Spec: file + ":State", Args: map[string]any{"unit": 1.0}}
	hook := job.Must(j.Hook(ctx, file+":rounded", pyhook.HookConfig{State: state}))
	params := []*c10d.Parameter{{Name: "w", Shape: []int64{2}, DType: tensor.Float32}}
	reducer := job.Must(j.DDP(ctx, params, ddp.Options{Hook: hook}))
	grad := job.Must(tensor.Slice[float32](reducer.Gradient(0)))
	sum := make([]float32, len(grad))
	for step := range 4 {
		for i := range grad { // quarters, the same ones in each step
			grad[i] = float32(4*j.Rank()+i+1) / 4
		}
		job.Check(reducer.Ready(0))
		job.Must(reducer.Wait(ctx))
		fmt.Printf("rank %d of %d, step %d: mean %v\n", j.Rank(), j.Size(), step, grad)
		for i := range grad {
			sum[i] += grad[i]
		}
	}
	fmt.Printf("rank %d of %d, sum: %v, without rounding: [%d %d]\n", j.Rank(), j.Size(), sum, 2*j.Size()-1, 2*j.Size())
	return nil
}

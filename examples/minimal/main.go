// Minimal is pyhook in one step: every rank has a gradient in Go memory, and
// PyTorch's own fp16_compress_hook averages them.
//
//	torchrun --no_python --nproc_per_node 2 ./minimal     # or any launcher
package main

import (
	"context"
	"fmt"
	"log"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/launch"
	"pyhook/pyhook"
	"pyhook/tensor"
)

func main() {
	ctx := context.Background()
	world := must(launch.Detect(launch.Options{})) // torchrun, Slurm, MPI, or alone
	check(world.Export())                          // before Python copies the environment
	rt := must(pyhook.Start(ctx, pyhook.Config{}))
	defer rt.Close()
	group := must(rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "gloo"}))
	hook := must(rt.NewHook(ctx, "fp16", pyhook.HookConfig{})) // or "my_hooks.py:my_hook"
	defer hook.Close()

	params := []*c10d.Parameter{{Name: "w", Shape: []int64{2, 3}, DType: tensor.Float32}}
	reducer := must(ddp.NewReducer(ctx, params, ddp.Options{Group: group, Hook: hook}))
	defer reducer.Close()
	grad := must(tensor.Slice[float32](reducer.Gradient(0))) // Python sees the same memory

	for i := range grad { // the backward pass of a real trainer
		grad[i] = float32(world.Rank + i)
	}
	check(reducer.Ready(0)) // the hook starts here, on a goroutine of the reducer
	must(reducer.Wait(ctx))
	fmt.Printf("rank %d of %d: mean gradient %v\n", world.Rank, world.Size, grad)
	check(group.Barrier(ctx)) // rank 0 serves the store: it leaves last
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

// Pythonhook runs a hook of your own, with a state made from a class: see hooks.py beside this file.
//
//	go run ./examples/pythonhook     # alone, or under any launcher: see examples/minimal
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

const file = "examples/pythonhook/hooks.py" // seen from where the program is started

func main() {
	ctx := context.Background()
	world := must(launch.Detect(launch.Options{}))
	check(world.Export())
	rt := must(pyhook.Start(ctx, pyhook.Config{}))
	defer rt.Close()
	group := must(rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "gloo"}))
	state := pyhook.StateSpec{Spec: file + ":State", Args: map[string]any{"unit": 1.0}}
	hook := must(rt.NewHook(ctx, file+":rounded", pyhook.HookConfig{State: state}))
	defer hook.Close()
	params := []*c10d.Parameter{{Name: "w", Shape: []int64{2}, DType: tensor.Float32}}
	reducer := must(ddp.NewReducer(ctx, params, ddp.Options{Group: group, Hook: hook}))
	defer reducer.Close()
	grad := must(tensor.Slice[float32](reducer.Gradient(0)))
	sum := make([]float32, len(grad))
	for step := range 4 {
		for i := range grad { // quarters, the same ones in each step
			grad[i] = float32(4*world.Rank+i+1) / 4
		}
		check(reducer.Ready(0))
		must(reducer.Wait(ctx))
		fmt.Printf("rank %d of %d, step %d: mean %v\n", world.Rank, world.Size, step, grad)
		for i := range grad {
			sum[i] += grad[i]
		}
	}
	size := world.Size
	fmt.Printf("rank %d of %d, sum: %v, without rounding: [%d %d]\n", world.Rank, size, sum, 2*size-1, 2*size)
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

// Uneven trains on ranks that have different numbers of batches: rank r has r+1. A rank that has no
// more goes on with gradients of zero (Join) until all are done, and then gets the last one's model.
//
//	go run ./examples/uneven     # alone, or under any launcher: see examples/minimal
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
	world := must(launch.Detect(launch.Options{}))
	check(world.Export())
	rt := must(pyhook.Start(ctx, pyhook.Config{}))
	defer rt.Close()
	group := must(rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "gloo"}))
	hook := must(rt.NewHook(ctx, "allreduce", pyhook.HookConfig{}))
	defer hook.Close()
	weight := []float32{10}
	data := must(tensor.FromSlice(weight)) // the same memory
	defer data.Close()
	params := []*c10d.Parameter{{Name: "w", Shape: []int64{1}, DType: tensor.Float32, Data: data}}
	reducer := must(ddp.NewReducer(ctx, params, ddp.Options{Group: group, Hook: hook, Join: true}))
	defer reducer.Close()

	batches := world.Rank + 1
	for range batches {
		grad := must(tensor.Slice[float32](reducer.Gradient(0)))
		grad[0] = float32(world.Rank + 1) // the backward pass of a real trainer
		check(reducer.Ready(0))
		must(reducer.Wait(ctx))
		weight[0] -= grad[0] // the optimiser
	}
	own := weight[0]
	last := must(reducer.Join(ctx)) // a rank that had data in the last step
	check(ddp.BroadcastParametersFrom(ctx, group, last, params))
	fmt.Printf("rank %d of %d: weight %v after %d batches of its own, %v at the end\n",
		world.Rank, world.Size, own, batches, weight[0])
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

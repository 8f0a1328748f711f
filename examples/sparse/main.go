// Sparse averages the gradient of an embedding: only the rows that a rank used travel.
//
//	go run ./examples/sparse     # alone, or under any launcher: see examples/minimal
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
	hook := must(rt.NewHook(ctx, "allreduce", pyhook.HookConfig{})) // one that takes sparse gradients
	defer hook.Close()
	embedding := &c10d.Parameter{Name: "embedding", Shape: []int64{1000, 2}, DType: tensor.Float32, Sparse: true}
	reducer := must(ddp.NewReducer(ctx, []*c10d.Parameter{embedding}, ddp.Options{Group: group, Hook: hook}))
	defer reducer.Close()

	// This rank's batch used row 7, as those of all ranks did, and twice a row of its own.
	own, g := int64(100+world.Rank), float32(world.Rank+1)
	gradient := &c10d.SparseGradient{
		Indices: must(tensor.FromSlice([]int64{own, 7, own}, 1, 3)),
		Values:  must(tensor.FromSlice([]float32{g, g, 4, 8, g, g}, 3, 2)),
	}
	defer gradient.Close()
	check(reducer.ReadySparse(0, gradient))
	must(reducer.Wait(ctx))
	reduced := reducer.SparseGradient(0) // sorted, each row once, until the next Wait
	rows, values := must(tensor.Slice[int64](reduced.Indices)), must(tensor.Slice[float32](reduced.Values))
	for i, row := range rows {
		fmt.Printf("rank %d of %d: mean of row %d is %v\n", world.Rank, world.Size, row, values[2*i:2*i+2])
	}
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

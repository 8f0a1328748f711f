// Worker runs a hook in a process of its own and kills that process once. Every rank restarts its
// worker and takes the lost step again: the weights are those of a run in which nothing happened.
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
	hook := must(w.NewHook(ctx, "examples/worker/hooks.py:dies_once", worker.HookConfig{SnapshotEvery: 1}))
	defer hook.Close()
	params := []*c10d.Parameter{{Name: "w", Shape: []int64{1}, DType: tensor.Float32}}
	reducer := must(ddp.NewReducer(ctx, params, ddp.Options{Group: w.Group(), Hook: hook}))
	defer reducer.Close()

	restarts := 0
	var weights [6]float32 // before each step: Restart may go back two
	for step := 0; step < len(weights)-1; step++ {
		grad := must(tensor.Slice[float32](reducer.Gradient(0)))
		grad[0] = weights[step] - float32(8*(world.Rank+1)) // the backward pass of a real trainer
		check(reducer.Ready(0))
		_, err := reducer.Wait(ctx)
		if worker.NeedsRestart(err) { // true on every rank
			step = int(must(w.Restart(ctx)).Restored[0]) - 1 // the last step that every rank has
			restarts++
			continue
		}
		check(err)
		weights[step+1] = weights[step] - grad[0]/2 // the optimiser
	}
	fmt.Printf("rank %d of %d: weights %v, restarts %d\n", world.Rank, world.Size, weights, restarts)
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

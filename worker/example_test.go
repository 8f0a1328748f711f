package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tensorconv"
	"pyhook/worker"
)

// A trainer whose hook runs in a worker. Its main calls worker.Main first; here
// TestMain does.
func Example() {
	ctx := context.Background()
	w, err := worker.Start(ctx, worker.Config{Size: 1, Timeout: time.Minute}) // a job of one rank
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	hook, err := w.NewHook("allreduce", worker.HookConfig{SnapshotEvery: 100})
	if err != nil {
		log.Fatal(err)
	}
	params := []*pyhook.Parameter{{Name: "weight", Shape: []int64{4}, DType: tensorconv.Float32}}
	reducer, err := ddp.NewReducer(ctx, params, ddp.Options{Group: w.Group(), Hook: hook})
	if err != nil {
		log.Fatal(err)
	}
	defer reducer.Close()

	gradient, err := tensorconv.Slice[float32](reducer.Gradient(0))
	if err != nil {
		log.Fatal(err)
	}
	copy(gradient, []float32{1, 2, 3, 4})
	if err := reducer.Ready(0); err != nil {
		log.Fatal(err)
	}
	_, err = reducer.Wait(ctx)
	var failed *worker.Error
	if errors.As(err, &failed) {
		_, err = w.Restart(ctx) // on every rank; then the step is taken again, or skipped
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(gradient)
	// Output: [1 2 3 4]
}

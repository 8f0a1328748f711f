package worker_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/tensor"
	"pyhook/worker"
)

// train is the loop of every rank. It returns the weights, which are those of a run in which
// nothing happened, also where workers died on the way.
func train(ctx context.Context, w *worker.Worker, steps int) ([]float32, error) {
	hook, err := w.NewHook(ctx, "allreduce", worker.HookConfig{})
	if err != nil {
		return nil, err
	}
	defer hook.Close()
	params := []*c10d.Parameter{{Name: "weight", Shape: []int64{4}, DType: tensor.Float32}}
	reducer, err := ddp.NewReducer(ctx, params, ddp.Options{Group: w.Group(), Hook: hook})
	if err != nil {
		return nil, err
	}
	defer reducer.Close()

	weights := make([]float32, 4)
	var gradient []float32
	for step := range steps {
		err := ddp.Retry(ctx, reducer, func() (err error) {
			if gradient, err = tensor.Slice[float32](reducer.Gradient(0)); err != nil {
				return err
			}
			for i := range gradient { // the backward pass
				gradient[i] = weights[i] - float32(i+step)
			}
			if err = reducer.Ready(0); err == nil {
				_, err = reducer.Wait(ctx)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		for i := range weights { // the optimiser
			weights[i] -= 0.5 * gradient[i]
		}
	}
	return weights, nil
}

// A trainer whose hook runs in a worker. Its main calls worker.Main first; here TestMain does.
func Example() {
	ctx := context.Background()
	w, err := worker.Start(ctx, worker.Config{Size: 1, Timeout: time.Minute}) // a job of one rank
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	weights, err := train(ctx, w, 2)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(weights)
	// Output: [0.5 1.25 2 2.75]
}

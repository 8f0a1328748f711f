// Gohook runs a hook written in Go, without Python. The ranks are goroutines (package memgroup);
// package c10d/transport makes a group of whatever connects processes.
//
//	go run ./examples/gohook -n 2
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"sync"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/tensor"
)

const lossScale = 1024

// unscaleHook divides gradients by lossScale before the hook inside it reduces them.
type unscaleHook struct{ c10d.CommHook }

func (h unscaleHook) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	if err := tensor.Divide(b.Buffer(), lossScale); err != nil {
		return nil, fmt.Errorf("unscaling bucket %d: %w", b.Index(), err)
	}
	return h.CommHook.RunHook(ctx, b)
}

func main() {
	n := flag.Int("n", 1, "number of ranks")
	flag.Parse()
	var ranks sync.WaitGroup
	for _, group := range memgroup.New(max(*n, 1)) {
		ranks.Go(func() {
			params := []*c10d.Parameter{{Name: "w", Shape: []int64{2}, DType: tensor.Float32}}
			hook := unscaleHook{&hooks.AllReduceCommHook{Group: group}}
			reducer, err := ddp.NewReducer(context.Background(), params, ddp.Options{Group: group, Hook: hook})
			check(err)
			defer reducer.Close()
			grad, err := tensor.Slice[float32](reducer.Gradient(0))
			check(err)
			grad[0], grad[1] = float32(group.Rank())*lossScale, 3*lossScale // the backward pass
			check(reducer.Ready(0))
			_, err = reducer.Wait(context.Background())
			check(err)
			fmt.Printf("rank %d of %d: mean gradient %v\n", group.Rank(), group.Size(), grad)
		})
	}
	ranks.Wait()
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

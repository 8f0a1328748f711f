package pyhook_test

import (
	"context"
	"fmt"
	"log"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
)

func Example() {
	ctx := context.Background()
	rt, err := pyhook.Start(ctx, pyhook.Config{})
	if err != nil {
		log.Fatal(err) // says which interpreters were tried, and what to do
	}
	defer rt.Close()
	group, err := rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "gloo", Size: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer group.Close()
	hook, err := rt.NewHook(context.Background(), "allreduce", pyhook.HookConfig{}) // PyTorch's own
	if err != nil {
		log.Fatal(err)
	}
	defer hook.Close()

	gradients := []float32{1, 2, 3, 4, 5}
	buffer, err := tensor.FromSlice(gradients)
	if err != nil {
		log.Fatal(err)
	}
	defer buffer.Close()
	bucket, err := c10d.NewGradBucket(c10d.BucketConfig{
		Index: 0, Count: 1, Buffer: buffer,
		Offsets: []int64{0, 4}, Lengths: []int64{4, 1}, Sizes: [][]int64{{2, 2}, {1}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer bucket.Close()

	future, err := hook.RunHook(ctx, bucket)
	if err != nil {
		log.Fatal(err) // names the hook, the rank, the bucket and what to do
	}
	defer future.Close()
	value, err := future.Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	reduced, err := hook.ParseHookResult(bucket, value)
	if err != nil {
		log.Fatal(err)
	}
	defer reduced.Close()
	fmt.Println(reduced, gradients)
	// Output: float32[5] on cpu [1 2 3 4 5]
}

func ExampleRuntime_NewHook() {
	ctx := context.Background()
	rt, err := pyhook.Start(ctx, pyhook.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer rt.Close()
	// def scaled_in_place(state, bucket):
	//     future = torch.futures.Future()
	//     future.set_result(bucket.buffer().mul_(state["factor"]))
	//     return future
	hook, err := rt.NewHook(context.Background(), "testdata/sample.py:scaled_in_place", pyhook.HookConfig{
		State: map[string]any{"factor": 0.5},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer hook.Close()

	gradients := []float32{2, 4, 6}
	buffer, err := tensor.FromSlice(gradients)
	if err != nil {
		log.Fatal(err)
	}
	defer buffer.Close()
	bucket, err := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: buffer})
	if err != nil {
		log.Fatal(err)
	}
	defer bucket.Close()
	future, err := hook.RunHook(ctx, bucket)
	if err != nil {
		log.Fatal(err)
	}
	defer future.Close()
	_, err = future.Wait(ctx)
	fmt.Println(gradients, err)
	// Output: [1 2 3] <nil>
}

// A hook whose state is made from a Python class: what rounding leaves of a gradient is added to
// the next one.
func ExampleStateSpec() {
	ctx := context.Background()
	rt, err := pyhook.Start(ctx, pyhook.Config{Path: []string{"testdata"}})
	if err != nil {
		log.Fatal(err)
	}
	defer rt.Close()
	hook, err := rt.NewHook(ctx, "states:rounding", pyhook.HookConfig{
		State: pyhook.StateSpec{Spec: "states:Residuals"}, // Args are the class's keyword arguments
	})
	if err != nil {
		log.Fatal(err)
	}
	defer hook.Close()
	buffer, err := tensor.FromSlice([]float32{0.75, 0.25})
	if err != nil {
		log.Fatal(err)
	}
	defer buffer.Close()
	bucket, err := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: buffer})
	if err != nil {
		log.Fatal(err)
	}
	defer bucket.Close()

	for range 4 {
		future, err := hook.RunHook(ctx, bucket)
		if err != nil {
			log.Fatal(err)
		}
		result, err := future.Wait(ctx)
		if err != nil {
			log.Fatal(err)
		}
		reduced, err := hook.ParseHookResult(bucket, result)
		if err != nil {
			log.Fatal(err)
		}
		elements, err := tensor.Slice[float32](reduced)
		fmt.Println(elements, err)
		reduced.Close()
		future.Close()
	}
	// Output:
	// [1 0] <nil>
	// [0 0] <nil>
	// [1 1] <nil>
	// [1 0] <nil>
}

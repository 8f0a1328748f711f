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
	buffer, _ := tensor.FromSlice(gradients)
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
	buffer, _ := tensor.FromSlice(gradients)
	bucket, _ := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: buffer})
	defer bucket.Close()
	future, err := hook.RunHook(ctx, bucket)
	if err != nil {
		log.Fatal(err)
	}
	_, err = future.Wait(ctx)
	fmt.Println(gradients, err)
	// Output: [1 2 3] <nil>
}

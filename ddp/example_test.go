package ddp_test

import (
	"context"
	"errors"
	"fmt"

	"pyhook/c10d"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// A training loop around PyTorch's own allreduce hook; "fp16" or "my_hooks.py:mine"
// would be as good. world is of Runtime.InitProcessGroup and rt of pyhook.Start.
func Example() {
	ctx := context.Background()
	hook, err := rt.NewHook(context.Background(), "allreduce", pyhook.HookConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer hook.Close()
	weight := &c10d.Parameter{Name: "weight", Shape: []int64{2, 2}, DType: tensor.Float32}
	bias := &c10d.Parameter{Name: "bias", Shape: []int64{2}, DType: tensor.Float32}
	defer weight.Close()
	defer bias.Close()
	reducer, err := ddp.NewReducer(ctx, []*c10d.Parameter{weight, bias}, ddp.Options{Group: world, Hook: hook})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reducer.Close()

	for step := range 2 {
		for i := 1; i >= 0; i-- { // the backward pass
			gradient, err := tensor.Slice[float32](reducer.Gradient(i))
			if err != nil {
				fmt.Println(err)
				return
			}
			for k := range gradient {
				gradient[k] = float32(step) + 0.5
			}
			if err := reducer.Ready(i); err != nil {
				fmt.Println(err)
				return
			}
		}
		timings, err := reducer.Wait(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		gradient, err := tensor.Slice[float32](reducer.Gradient(0)) // the mean over the ranks
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("step", step, "weight:", gradient, "buckets:", len(timings), "bytes:", timings[0].Bytes)
	}
	// Output:
	// step 0 weight: [0.5 0.5 0.5 0.5] buckets: 1 bytes: 24
	// step 1 weight: [1.5 1.5 1.5 1.5] buckets: 1 bytes: 24
}

// Gradients that live in the trainer's own memory, here as float64.
func ExampleReducer_ReadyFrom() {
	ctx := context.Background()
	params := []*c10d.Parameter{{Name: "weight", Shape: []int64{3}, DType: tensor.Float32}}
	reducer, err := ddp.NewReducer(ctx, params, ddp.Options{Group: world}) // no Hook: the mean
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reducer.Close()

	gradient := []float64{1, 2, 3}
	own, err := tensor.FromSlice(gradient)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer own.Close()
	if err := reducer.ReadyFrom(0, own); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := reducer.Wait(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(gradient)
	// Output: [1 2 3]
}

// An embedding of five rows and two columns, of which this step used rows 3 and
// 1, one of them twice.
func ExampleReducer_ReadySparse() {
	ctx := context.Background()
	params := []*c10d.Parameter{{Name: "embedding", Shape: []int64{5, 2}, DType: tensor.Float32, Sparse: true}}
	reducer, err := ddp.NewReducer(ctx, params, ddp.Options{Group: world})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reducer.Close()

	indices, err := tensor.FromSlice([]int64{3, 1, 3}, 1, 3)
	if err != nil {
		fmt.Println(err)
		return
	}
	values, err := tensor.FromSlice([]float32{1, 2, 3, 4, 5, 6}, 3, 2)
	if err != nil {
		fmt.Println(err)
		return
	}
	gradient := &c10d.SparseGradient{Indices: indices, Values: values}
	defer gradient.Close()
	if err := reducer.ReadySparse(0, gradient); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := reducer.Wait(ctx); err != nil {
		fmt.Println(err)
		return
	}
	reduced := reducer.SparseGradient(0)
	rows, err := tensor.Slice[int64](reduced.Indices)
	if err != nil {
		fmt.Println(err)
		return
	}
	elements, err := tensor.Slice[float32](reduced.Values)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(rows, elements)
	// Output: [1 3] [3 4 6 8]
}

// Two ranks, here goroutines, of which rank 0 has one batch and rank 1 has two. In the second step
// rank 0's gradient is zero; at the end it gets the weights of rank 1.
func ExampleReducer_Join() {
	ctx := context.Background()
	train := func(group c10d.ProcessGroup) error {
		weight := []float32{10}
		data, err := tensor.FromSlice(weight)
		if err != nil {
			return err
		}
		defer data.Close()
		params := []*c10d.Parameter{{Name: "weight", Shape: []int64{1}, DType: tensor.Float32, Data: data}}
		reducer, err := ddp.NewReducer(ctx, params, ddp.Options{Group: group, Join: true})
		if err != nil {
			return err
		}
		defer reducer.Close()
		for range group.Rank() + 1 {
			gradient, err := tensor.Slice[float32](reducer.Gradient(0))
			if err != nil {
				return err
			}
			gradient[0] = 2 // the backward pass
			if err := reducer.Ready(0); err != nil {
				return err
			}
			if _, err := reducer.Wait(ctx); err != nil {
				return err
			}
			weight[0] -= gradient[0] // the optimiser
		}
		last, err := reducer.Join(ctx)
		if err != nil {
			return err
		}
		if err := ddp.BroadcastParametersFrom(ctx, group, last, params); err != nil {
			return err
		}
		if group.Rank() == 0 {
			fmt.Println("weight", weight[0], "of rank", last)
		}
		return nil
	}
	groups, errs := memgroup.New(2), make(chan error)
	for _, group := range groups {
		go func() {
			defer group.Close() // after an error the other rank's Wait fails
			errs <- train(group)
		}()
	}
	if err := errors.Join(<-errs, <-errs); err != nil {
		fmt.Println(err)
	}
	// Output: weight 7 of rank 1
}

// What DDP's _get_ddp_logging_data says, from Go.
func ExampleReducer_LoggingData() {
	params := []*c10d.Parameter{
		{Name: "weight", Shape: []int64{100}, DType: tensor.Float32},
		{Name: "bias", Shape: []int64{10}, DType: tensor.Float32},
	}
	reducer, err := ddp.NewReducer(context.Background(), params, ddp.Options{Group: world})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reducer.Close()
	data := reducer.LoggingData()
	fmt.Println(data.BackendName, data.TotalParameterSizeBytes, data.BucketSizes, data.DTypes)
	// Output: gloo 440 [440] [float32]
}

// A failure names its place, and the next step can go on.
func ExampleStepError() {
	ctx := context.Background()
	hook, err := rt.NewHook(context.Background(), "hooks:raises_once", pyhook.HookConfig{State: []any{}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer hook.Close()
	params := []*c10d.Parameter{
		{Name: "weight", Shape: []int64{4}, DType: tensor.Float32},
		{Name: "bias", Shape: []int64{1}, DType: tensor.Float64},
	}
	reducer, err := ddp.NewReducer(ctx, params, ddp.Options{Group: world, Hook: hook})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reducer.Close()
	for range 2 {
		for i := range params {
			if err := reducer.Ready(i); err != nil {
				fmt.Println(err)
				return
			}
		}
		_, err = reducer.Wait(ctx)
		var failed *ddp.StepError
		if errors.As(err, &failed) {
			fmt.Println("bucket", failed.Bucket, "of", failed.Names, "ValueError:", errors.Is(err, pyhook.Exception("ValueError")))
			continue
		}
		fmt.Println("reduced:", err == nil)
	}
	// Output:
	// bucket 1 of [weight] ValueError: true
	// reduced: true
}

func ExampleReducer_Wait_missing() {
	ctx := context.Background()
	params := []*c10d.Parameter{
		{Name: "weight", Shape: []int64{2}, DType: tensor.Float32},
		{Name: "bias", Shape: []int64{2}, DType: tensor.Float32},
	}
	reducer, err := ddp.NewReducer(ctx, params, ddp.Options{Group: world})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reducer.Close()
	if err := reducer.Ready(1); err != nil {
		fmt.Println(err)
		return
	}
	_, err = reducer.Wait(ctx)
	fmt.Println(err)
	// Output:
	// rank 0: not marked ready in this step: weight
	// hint: mark every parameter once a step; one that the step did not use is marked with MarkUnused, or found with Options.Unused
}

// PyTorch's ComputeBucketAssignmentTest.test_multi_limit_multi_dtype.
func ExampleAssignBuckets() {
	narrow := ddp.Item{Len: 50, DType: tensor.Float32}
	wide := ddp.Item{Len: 25, DType: tensor.Float64}
	items := []ddp.Item{narrow, wide, narrow, wide, narrow, wide}
	fmt.Println(ddp.AssignBuckets(items, []int64{200, 400}))
	// Output: [[0] [1] [2 4] [3 5]] [200 200 400 400]
}

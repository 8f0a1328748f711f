package c10d_test

import (
	"context"
	"fmt"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/c10d/transport/memgroup"
	"pyhook/tensor"
)

// halvedHook divides gradients by two before the hook inside it reduces them.
type halvedHook struct{ c10d.CommHook }

func (h halvedHook) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	if err := tensor.Divide(b.Buffer(), 2); err != nil {
		return nil, err
	}
	return h.CommHook.RunHook(ctx, b)
}

// A hook in Go around another one, which may be in Python. Package ddp makes the bucket and calls
// the hook where a trainer uses a Reducer.
func ExampleCommHook() {
	ctx := context.Background()
	group := memgroup.New(1)[0]
	defer group.Close()
	hook := halvedHook{&hooks.AllReduceCommHook{Group: group}}
	gradient, err := tensor.FromSlice([]float32{2, 4, 6})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer gradient.Close()
	bucket, err := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: gradient})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer bucket.Close()

	future, err := hook.RunHook(ctx, bucket)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer future.Close()
	result, err := future.Wait(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	reduced, err := hook.ParseHookResult(bucket, result)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reduced.Close()
	elements, err := tensor.Slice[float32](reduced)
	fmt.Println(elements, err)
	// Output: [1 2 3] <nil>
}

func ExampleFuture_Then() {
	future, complete := c10d.NewFuture[c10d.Result]()
	doubled := future.Then(func(r c10d.Result) (c10d.Result, error) {
		elements, err := tensor.Slice[float32](r.(c10d.TensorResult).Tensor)
		for i := range elements {
			elements[i] *= 2
		}
		return r, err
	})
	gradient, _ := tensor.FromSlice([]float32{1, 2, 3})
	defer gradient.Close()
	complete(c10d.TensorResult{Tensor: gradient}, nil)

	result, err := doubled.Wait(context.Background())
	elements, _ := tensor.Slice[float32](result.(c10d.TensorResult).Tensor)
	fmt.Println(elements, err)
	// Output: [2 4 6] <nil>
}

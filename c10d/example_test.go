package c10d_test

import (
	"context"
	"fmt"

	"pyhook/c10d"
	"pyhook/tensor"
)

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

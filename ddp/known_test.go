package ddp_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// The objects that a state is made with are those of every bucket, also of the buckets
// that are made anew after the first step.
func TestReducer_HasTheParametersThatTheStateWasMadeWith(t *testing.T) {
	noLeaks(t, func() {
		params := scalars(4)
		defer closeParameters(params)
		h, err := rt.NewHook(t.Context(), "hooks:known", pyhook.HookConfig{State: pyhook.StateSpec{Spec: "hooks:Known"}, Parameters: params})
		require.NoError(t, err)
		defer h.Close()
		r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: world, Hook: h, Layout: ddp.LayoutRebuilt, BucketCapMB: twoFloats, Order: ddp.OrderSerial})
		require.NoError(t, err)
		defer r.Close()
		for range 3 {
			for _, i := range []int{0, 2, 1, 3} { // not the order of the first buckets
				set(t, r, i, 9)
			}
			_, err := r.Wait(testutil.Soon(t))
			require.NoError(t, err)
			for i := range params {
				assert.Equal(t, float32(i), floats(r.Gradient(i))[0], "by its name")
			}
		}
		module, err := rt.Import(t.Context(), "hooks")
		require.NoError(t, err)
		defer module.Close()
		layouts, err := module.CallValue("layouts", h.State())
		require.NoError(t, err)
		steps := layouts.([]any)
		first, last := steps[0].([]any), steps[len(steps)-1].([]any)
		assert.NotEqual(t, first, last)
		assert.Equal(t, []any{int64(1), []any{"p1", "p3"}}, last, "rebuilt in the order of readiness")
	})
}

// A state that knows the model's parameters by name. They are given before the
// Reducer is made, and are the objects that the hook finds in each bucket.
//
//	class ByName:
//	    def __init__(self, parameters, scales):
//	        self.scale = {id(p): scales.get(name, 1.0) for name, p in parameters.named_parameters()}
//
//	def scaled_by_name(state, bucket):
//	    for p, gradient in zip(bucket.parameters(), bucket.gradients()):
//	        gradient.mul_(state.scale[id(p)])
//	    ...
func ExampleNewReducer_parametersByName() {
	ctx := context.Background()
	params := []*c10d.Parameter{
		{Name: "weight", Shape: []int64{2}, DType: tensor.Float32},
		{Name: "bias", Shape: []int64{1}, DType: tensor.Float32},
	}
	defer closeParameters(params)
	hook, err := rt.NewHook(context.Background(), "hooks:scaled_by_name", pyhook.HookConfig{
		State:      pyhook.StateSpec{Spec: "hooks:ByName", Args: map[string]any{"scales": map[string]any{"bias": 10.0}}},
		Parameters: params,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer hook.Close()
	reducer, err := ddp.NewReducer(ctx, params, ddp.Options{Group: world, Hook: hook})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reducer.Close()
	for i := range params { // the backward pass
		gradient, err := tensor.Slice[float32](reducer.Gradient(i))
		if err != nil {
			fmt.Println(err)
			return
		}
		gradient[0] = 1
		if err := reducer.Ready(i); err != nil {
			fmt.Println(err)
			return
		}
	}
	if _, err := reducer.Wait(ctx); err != nil {
		fmt.Println(err)
		return
	}
	weight, _ := tensor.Slice[float32](reducer.Gradient(0))
	bias, _ := tensor.Slice[float32](reducer.Gradient(1))
	fmt.Println(weight, bias)
	// Output: [1 0] [10]
}

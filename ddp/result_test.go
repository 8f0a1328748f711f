package ddp_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// tensor is a contiguous tensor of these float32, open till the test ends.
func tensorOf(t *testing.T, elements ...float32) *tensor.Tensor {
	t.Helper()
	x, err := tensor.FromSlice(elements)
	require.NoError(t, err)
	t.Cleanup(x.Close)
	return x
}

func zeros(t *testing.T, dtype tensor.DType, shape ...int64) *tensor.Tensor {
	t.Helper()
	x, err := tensor.New(dtype, shape...)
	require.NoError(t, err)
	t.Cleanup(x.Close)
	return x
}

func converted(t *testing.T, dtype tensor.DType, x *tensor.Tensor) *tensor.Tensor {
	t.Helper()
	y := zeros(t, dtype, x.Shape()...)
	require.NoError(t, tensor.Copy(y, x))
	return y
}

func view(t *testing.T, x *tensor.Tensor, offset int64, shape, strides []int64) *tensor.Tensor {
	t.Helper()
	y, err := x.View(offset, shape, strides)
	require.NoError(t, err)
	t.Cleanup(y.Close)
	return y
}

// returning is a hook whose futures have this value.
func returning(result *tensor.Tensor) hook {
	return hook{run: func(context.Context, *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
		return c10d.CompletedFuture[c10d.Result](c10d.TensorResult{Tensor: result}, nil), nil
	}}
}

func TestResultsOfAnyFormAreCopiedRight(t *testing.T) {
	seven := tensorOf(t, 0, 1, 2, 3, 4, 5, 6)
	for _, c := range []struct {
		name   string
		result *tensor.Tensor
		want   []float32
	}{
		{"fresh memory", tensorOf(t, 8, 9, 10), []float32{8, 9, 10}},
		{"another dtype", converted(t, tensor.Float64, tensorOf(t, 8, 9, 10)), []float32{8, 9, 10}},
		{"half precision", converted(t, tensor.BFloat16, tensorOf(t, 8, 9, 10)), []float32{8, 9, 10}},
		{"an offset", view(t, seven, 3, []int64{3}, nil), []float32{3, 4, 5}},
		{"strides", view(t, seven, 1, []int64{3}, []int64{2}), []float32{1, 3, 5}},
		{"one element for all", view(t, seven, 6, []int64{3}, []int64{0}), []float32{6, 6, 6}},
		{"backwards", view(t, seven, 5, []int64{3}, []int64{-1}), []float32{5, 4, 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "backwards" {
				notByTorch(t)
			}
			r := reducer(t, parameters([]int64{1}, []int64{2}), ddp.Options{Hook: returning(c.result)})
			for range 2 {
				own := tensorOf(t, -1)
				set(t, r, 1, -1)
				require.NoError(t, r.ReadyFrom(0, own))
				_, err := r.Wait(testutil.Soon(t))
				require.NoError(t, err)
				assert.Equal(t, c.want[:2], floats(r.Gradient(1)))
				assert.Equal(t, c.want[2:], floats(r.Gradient(0)))
				assert.Equal(t, c.want[2:], floats(own))
			}
		})
	}
}

// A result that overlaps the bucket in another layout.
func TestAResultThatIsTheBucketReversedIsCopiedRight(t *testing.T) {
	notByTorch(t)
	var reversed *tensor.Tensor
	h := hook{run: func(_ context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
		reversed = must(b.Buffer().View(2, []int64{3}, []int64{-1}))
		return c10d.CompletedFuture[c10d.Result](c10d.TensorResult{Tensor: reversed}, nil), nil
	}}
	r := reducer(t, scalars(3), ddp.Options{Hook: h})
	setAll(t, r, 3)
	_, err := r.Wait(testutil.Soon(t))
	require.NoError(t, err)
	defer reversed.Close()
	for i, want := range []float32{3, 2, 1} {
		assert.Equal(t, want, floats(r.Gradient(i))[0])
	}
}

func TestGradientsInTheTrainersMemoryComeBackInTheirOwnForm(t *testing.T) {
	doubled := hook{run: func(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
		for i := range floats(b.Buffer()) {
			floats(b.Buffer())[i] *= 2
		}
		return identity(ctx, b)
	}}
	r := reducer(t, parameters([]int64{2}, []int64{2, 2}, []int64{1}), ddp.Options{Hook: doubled})
	wide := tensorOf(t, 1, 0, 2, 0, 3, 0, 4, 0)
	double := converted(t, tensor.Float64, tensorOf(t, 5, 6))
	require.NoError(t, r.ReadyFrom(1, view(t, wide, 0, []int64{2, 2}, []int64{2, 4}))) // transposed, with gaps
	require.NoError(t, r.ReadyFrom(0, double))
	floats(r.Gradient(2))[0] = 7
	require.NoError(t, r.ReadyFrom(2, r.Gradient(2))) // the bucket's own memory
	_, err := r.Wait(testutil.Soon(t))
	require.NoError(t, err)
	assert.Equal(t, []float32{2, 0, 4, 0, 6, 0, 8, 0}, floats(wide))
	assert.Equal(t, []float64{10, 12}, must(tensor.Slice[float64](double)))
	assert.Equal(t, float32(14), floats(r.Gradient(2))[0])
}

func TestAGradientThatCannotBeCopiedLeavesItsParameterUnmarked(t *testing.T) {
	r := reducer(t, parameters([]int64{2}), ddp.Options{Hook: hook{run: identity}})
	closed := must(tensor.New(tensor.Float32, 2))
	closed.Close()
	for want, grad := range map[string]*tensor.Tensor{
		"the tensor is nil":       nil,
		"the tensor was closed":   closed,
		"shape [3] into [2]":      tensorOf(t, 1, 2, 3),
		"no conversion from floa": zeros(t, tensor.Float8E5M2, 2),
	} {
		err := r.ReadyFrom(0, grad)
		require.ErrorContains(t, err, want)
		assert.ErrorContains(t, err, "rank 0, gradient of p0")
	}
	require.NoError(t, r.ReadyFrom(0, tensorOf(t, 1, 2)))
	_, err := r.Wait(testutil.Soon(t))
	require.NoError(t, err)
}

func TestMixedDTypesHaveBucketsOfTheirOwn(t *testing.T) {
	var params []*c10d.Parameter
	dtypes := []tensor.DType{tensor.Float32, tensor.Float64, tensor.Float16, tensor.BFloat16, tensor.Complex64}
	for i := range 2 * len(dtypes) {
		params = append(params, &c10d.Parameter{Name: "p", Shape: []int64{int64(i%3 + 1)}, DType: dtypes[i%len(dtypes)]})
	}
	r := reducer(t, params, ddp.Options{Hook: hook{run: identity}})
	assert.Equal(t, [][]int{{9, 4}, {8, 3}, {7, 2}, {6, 1}, {5, 0}}, r.Buckets())
	for range 2 {
		for i := range params {
			assert.Equal(t, params[i].DType, r.Gradient(i).DType())
			require.NoError(t, r.Ready(i))
		}
		_, err := r.Wait(testutil.Soon(t))
		require.NoError(t, err)
	}
}

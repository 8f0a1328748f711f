package ddp_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

var errBoom = errors.New("boom")

// failing is an identity hook of many buckets that fails once at bucket 1.
func failing(t *testing.T, how string) *hook {
	h := &hook{}
	failed := false
	h.run = func(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
		if b.Index() != 1 || failed {
			return identity(ctx, b)
		}
		failed = true
		floats(b.Buffer())[0] = -1 // in place, and then it fails
		value := func(t *tensor.Tensor) (*c10d.Future[c10d.Result], error) {
			return c10d.CompletedFuture[c10d.Result](c10d.TensorResult{Tensor: t}, nil), nil
		}
		switch how {
		case "call":
			return nil, errBoom
		case "no future":
			return nil, nil
		case "future":
			return c10d.CompletedFuture[c10d.Result](nil, errBoom), nil
		case "late future":
			future, complete := c10d.NewFuture[c10d.Result]()
			go complete(nil, errBoom)
			return future, nil
		case "short":
			return value(zeros(t, tensor.Float32, 0))
		case "shape":
			return value(zeros(t, tensor.Float32, 1, 1))
		case "dtype":
			return value(zeros(t, tensor.Float8E5M2, 1))
		}
		return value(nil)
	}
	h.parse = func(v c10d.Result) (*tensor.Tensor, error) {
		if empty := v.(c10d.TensorResult).Tensor == nil; empty && how == "parse" {
			return nil, errBoom
		} else if empty {
			return nil, nil
		}
		return c10d.ParseTensor(v)
	}
	return h
}

func TestReducer_Wait_failureNamesTheBucketAndWritesNothing(t *testing.T) {
	for how, want := range map[string]error{
		"call": errBoom, "no future": c10d.ErrNotFuture, "future": errBoom, "late future": errBoom, "parse": errBoom,
		"short": c10d.ErrBadResult, "shape": c10d.ErrBadResult, "dtype": nil, "nil": c10d.ErrNotTensor,
	} {
		for _, order := range []ddp.Order{ddp.OrderSerial, ddp.OrderOverlapped} {
			t.Run(how, func(t *testing.T) {
				launched := 0
				h := failing(t, how)
				run := h.run
				h.run = func(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
					launched++
					if b.Index() == 0 { // a result elsewhere, whose copy would show
						return c10d.CompletedFuture[c10d.Result](c10d.TensorResult{Tensor: tensorOf(t, 99, 99)}, nil), nil
					}
					return run(ctx, b)
				}
				params := []*c10d.Parameter{
					{Name: "c", Shape: []int64{1}, DType: tensor.Float32},
					{Name: "b", Shape: []int64{1}, DType: tensor.Float32},
					{Name: "a", Shape: []int64{2}, DType: tensor.Float32},
				}
				r := reducer(t, params, ddp.Options{Hook: h, BucketCapMB: tiny, Order: order})
				failAtBucketOne(t, r, want)
				if how == "call" || how == "no future" || order == ddp.OrderSerial && (how == "future" || how == "late future") {
					assert.Equal(t, 2, launched, "a bucket was launched after the one that failed")
				}
				setAll(t, r, 3)
				timings, err := r.Wait(testutil.Soon(t))
				require.NoError(t, err)
				assert.Len(t, timings, 3)
				assert.Equal(t, []float32{99, 99}, floats(r.Gradient(2)))
			})
		}
	}
}

func failAtBucketOne(t *testing.T, r *ddp.Reducer, want error) {
	t.Helper()
	own := [][]float32{{1}, {2}}
	addresses := []any{r.Gradient(0).Data(), r.Gradient(1).Data(), r.Gradient(2).Data()}
	set(t, r, 2, 3)
	for i := range own {
		require.NoError(t, r.ReadyFrom(i, tensorOf(t, own[i]...)))
	}
	timings, err := r.Wait(testutil.Soon(t))
	require.Error(t, err)
	require.Nil(t, timings)
	if want != nil {
		require.ErrorIs(t, err, want)
	}
	var step *ddp.StepError
	require.ErrorAs(t, err, &step)
	assert.Equal(t, 1, step.Bucket)
	assert.Equal(t, []string{"b"}, step.Names)
	assert.Contains(t, err.Error(), "rank 0: reducing bucket 1 (1 parameters, from b) failed: ")
	assert.Equal(t, [][]float32{{1}, {2}}, own, "the trainer's memory was written")
	assert.Equal(t, []float32{3, 3}, floats(r.Gradient(2)), "a result was written")
	for i, address := range addresses {
		assert.Equal(t, address, r.Gradient(i).Data(), "gradient %d moved", i)
	}
}

func TestAnErrorOfAFutureWaitsForTheOthersSoThatNoneWritesIntoTheNextStep(t *testing.T) {
	g := newGate()
	r := reducer(t, scalars(2), ddp.Options{Hook: g, BucketCapMB: tiny, Order: ddp.OrderOverlapped})
	setAll(t, r, 2)
	g.called(t, 0)
	g.called(t, 1)
	waited := make(chan error)
	go func() {
		_, err := r.Wait(testutil.Soon(t))
		waited <- err
	}()
	g.complete(0, nil, errBoom)
	select {
	case <-waited:
		require.FailNow(t, "Wait left a reduction behind")
	case <-quick():
	}
	g.complete(1, r.Gradient(0), nil)
	require.ErrorIs(t, <-waited, errBoom)
}

func TestMarkingTwiceIsRefusedAndWritesNothing(t *testing.T) {
	r := reducer(t, parameters([]int64{1}, []int64{1}), ddp.Options{Hook: hook{run: identity}, BucketCapMB: tiny})
	set(t, r, 1, 5)
	for _, err := range []error{r.Ready(1), r.ReadyFrom(1, tensorOf(t, 9))} {
		require.ErrorIs(t, err, ddp.ErrReadyTwice)
		var parameter *ddp.ParameterError
		require.ErrorAs(t, err, &parameter)
		assert.Equal(t, []string{"p1"}, parameter.Names)
		assert.Contains(t, err.Error(), "rank 0: marked ready twice in one step: p1\nhint: call Wait once")
	}
	assert.Equal(t, []float32{5}, floats(r.Gradient(1)), "the bucket may be with the hook")
	set(t, r, 0, 1)
	_, err := r.Wait(testutil.Soon(t))
	require.NoError(t, err)
	stepWorks(t, r, 2)
}

func TestWaitingTooEarlyNamesTheParametersThatAreMissing(t *testing.T) {
	for _, order := range []ddp.Order{ddp.OrderSerial, ddp.OrderOverlapped} {
		g := newGate()
		r := reducer(t, scalars(12), ddp.Options{Hook: g, BucketCapMB: tiny, Order: order})
		set(t, r, 11, 1)
		g.called(t, 0)
		go g.complete(0, r.Gradient(11), nil)
		_, err := r.Wait(testutil.Soon(t))
		require.ErrorIs(t, err, ddp.ErrNotReady)
		var parameter *ddp.ParameterError
		require.ErrorAs(t, err, &parameter)
		assert.Len(t, parameter.Names, 11)
		assert.Contains(t, err.Error(), "not marked ready in this step: p0, p1, p2, p3, p4, p5, p6, p7 and 3 more\nhint: ")
		_, err = r.Wait(testutil.Soon(t))
		require.ErrorIs(t, err, ddp.ErrNotReady, "a step that nothing was done in")
	}
	r := reducer(t, scalars(3), ddp.Options{Hook: hook{run: identity}, BucketCapMB: tiny})
	set(t, r, 2, 1)
	_, err := r.Wait(testutil.Soon(t))
	require.ErrorIs(t, err, ddp.ErrNotReady)
	stepWorks(t, r, 3)
}

func TestAHooksErrorGoesBeforeAParameterThatIsMissing(t *testing.T) {
	h := failing(t, "call")
	called, run := make(chan int, 10), h.run
	h.run = func(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
		defer func() { called <- b.Index() }()
		return run(ctx, b)
	}
	r := reducer(t, scalars(3), ddp.Options{Hook: h, BucketCapMB: tiny})
	set(t, r, 2, 1)
	set(t, r, 1, 1)
	<-called
	<-called
	_, err := r.Wait(testutil.Soon(t))
	require.ErrorIs(t, err, errBoom)
	stepWorks(t, r, 3)
}

func TestThereIsNoParameterBeyondTheList(t *testing.T) {
	r := reducer(t, scalars(2), ddp.Options{Hook: hook{run: identity}})
	for _, i := range []int{-1, 2} {
		require.ErrorContains(t, r.Ready(i), "there are 2")
		require.ErrorContains(t, r.ReadyFrom(i, tensorOf(t, 1)), "there are 2")
		assert.Panics(t, func() { r.Gradient(i) })
	}
	stepWorks(t, r, 2)
}

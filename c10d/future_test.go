package c10d_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// floats makes a tensor and closes it with the test.
func floats(t *testing.T, values ...float32) *tensor.Tensor {
	t.Helper()
	made, err := tensor.FromSlice(values)
	require.NoError(t, err)
	t.Cleanup(made.Close)
	return made
}

// resultOf is the result of a hook in Go.
func resultOf(x *tensor.Tensor) c10d.Result { return c10d.TensorResult{Tensor: x} }

// tensorIn is the tensor of such a result.
func tensorIn(r c10d.Result) *tensor.Tensor { return r.(c10d.TensorResult).Tensor }

func TestAFutureIsDoneOnce(t *testing.T) {
	future, complete := c10d.NewFuture[c10d.Result]()
	select {
	case <-future.Done():
		t.Fatal("done too early")
	default:
	}
	x := floats(t, 1)
	complete(resultOf(x), nil)
	complete(nil, errors.New("too late"))
	<-future.Done()
	for range 2 {
		value, err := future.Wait(testutil.Soon(t))
		require.NoError(t, err)
		assert.Same(t, x, tensorIn(value))
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := future.Wait(cancelled)
	require.NoError(t, err, "a value that is there is given whatever the context")
}

func TestThenChainsPassValuesAndErrors(t *testing.T) {
	x, y := floats(t, 1), floats(t, 2)
	step := func(v c10d.Result) (c10d.Result, error) {
		if tensorIn(v) == x {
			return resultOf(y), nil
		}
		return v, nil
	}
	for _, early := range []bool{true, false} {
		future, complete := c10d.NewFuture[c10d.Result]()
		if early {
			complete(resultOf(x), nil)
		}
		last := future.Then(step).Then(step).Then(step)
		if !early {
			complete(resultOf(x), nil)
		}
		value, err := last.Wait(testutil.Soon(t))
		require.NoError(t, err)
		assert.Same(t, y, tensorIn(value))
	}
	boom := errors.New("boom")
	reached := false
	failing := c10d.CompletedFuture(resultOf(x), nil).Then(func(c10d.Result) (c10d.Result, error) { return nil, boom })
	_, err := failing.Then(func(v c10d.Result) (c10d.Result, error) { reached = true; return v, nil }).Wait(testutil.Soon(t))
	require.ErrorIs(t, err, boom)
	assert.False(t, reached, "an error passes by")
}

func TestManyGoroutinesMayWaitForOneFuture(t *testing.T) {
	future, complete := c10d.NewFuture[c10d.Result]()
	x := floats(t, 1)
	var group sync.WaitGroup
	for i := range 100 {
		group.Go(func() {
			if i%2 == 0 {
				<-future.Done()
			}
			value, err := future.Wait(context.Background())
			assert.NoError(t, err)
			assert.Same(t, x, tensorIn(value))
			next, err := future.Then(func(v c10d.Result) (c10d.Result, error) { return v, nil }).Wait(context.Background())
			assert.NoError(t, err)
			assert.Same(t, x, tensorIn(next))
		})
	}
	complete(resultOf(x), nil)
	group.Wait()
}

// slices is a result that == cannot compare.
type slices struct{ of []float32 }

func (slices) Release() {}

func TestThenTakesValuesThatCannotBeCompared(t *testing.T) {
	same := func(r c10d.Result) (c10d.Result, error) { return r, nil }
	result, err := c10d.CompletedFuture[c10d.Result](slices{[]float32{1}}, nil).Then(same).Wait(testutil.Soon(t))
	require.NoError(t, err)
	assert.Equal(t, slices{[]float32{1}}, result)
	rows, err := c10d.CompletedFuture([]int{1, 2}, nil).Then(func(v []int) ([]int, error) { return v[:1], nil }).Wait(testutil.Soon(t))
	require.NoError(t, err)
	assert.Equal(t, []int{1}, rows)
}

// counted is a value that notes how often it was let go of.
type counted struct{ released *int }

func (c counted) Release() { *c.released++ }

func TestFuture_Then_valueStaysItsOwners(t *testing.T) {
	boom := errors.New("boom")
	released := 0
	future := c10d.CompletedFuture(counted{&released}, nil)
	next := future.Then(func(v counted) (counted, error) { return v, boom })
	_, err := next.Wait(t.Context())
	require.ErrorIs(t, err, boom)
	next.Close()
	assert.Zero(t, released, "the first future has it still")
	future.Close()
	assert.Equal(t, 1, released)
	for range 3 { // uses after Close
		same := future.Then(func(v counted) (counted, error) { return v, nil })
		_, err := same.Wait(t.Context())
		require.NoError(t, err)
		same.Close()
	}
	time.Sleep(10 * time.Millisecond)
	assert.Equal(t, 1, released, "once")
}

package pyhook

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// hookFuture calls the hook.
func hookFuture(t *testing.T, hook string, b *c10d.GradBucket) *c10d.Future[c10d.Result] {
	t.Helper()
	future, err := load(t, hook, HookConfig{}).RunHook(context.Background(), b)
	require.NoError(t, err)
	return future
}

func TestThenKeepsThePythonValueUntilItHasRun(t *testing.T) {
	read := func(v c10d.Result) (string, error) {
		if resultObject(v) == nil {
			return "", errors.New("no object")
		}
		return resultObject(v).Str()
	}
	for _, hook := range []string{"sample:doubled", "sample:pending"} {
		check(t, hook, func(t *testing.T) {
			future := hookFuture(t, hook, bucket(t, []float32{1, 2}))
			start, text := make(chan struct{}), make(chan string, 1)
			same := future.Then(func(v c10d.Result) (c10d.Result, error) {
				<-start
				s, err := read(v)
				text <- s
				return v, err
			})
			if hook == "sample:pending" {
				python(t, "sample.finish", true)
			}
			future.Close()
			close(start)
			value, err := same.Wait(testutil.Soon(t))
			require.NoError(t, err)
			assert.Equal(t, "tensor([2., 4.])", <-text)
			s, err := read(value)
			require.NoError(t, err, "the second future has a handle of its own")
			assert.Equal(t, "tensor([2., 4.])", s)
			same.Close()
			_, err = read(value)
			require.Error(t, err)
		})
	}
}

func TestAClosedFutureLetsGo(t *testing.T) {
	check(t, "of what comes later", func(t *testing.T) {
		future := hookFuture(t, "sample:pending", bucket(t, []float32{1}))
		waiting := make(chan error)
		go func() { _, err := future.Wait(context.Background()); waiting <- err }()
		future.Close()
		saysAll(t, <-waiting, c10d.ErrClosed, "sample.pending", 2)
		assert.Equal(t, int64(1), python(t, "sample.finish", true), "which is no harm")
	})
	t.Run("of a future that never comes", func(t *testing.T) {
		python(t, "gc.collect")
		before := leaks.Stable()
		before.Pending += 10 // torch keeps such a future, and its callback, for ever
		t.Run("", func(t *testing.T) {
			for range 10 {
				hookFuture(t, "sample:lost", bucket(t, []float32{1})).Close()
			}
		})
		testutil.Eventually(t, func() bool { return leaks.Counts() == before })
	})
	check(t, "but not before those that were promised it", func(t *testing.T) {
		future := hookFuture(t, "sample:pending", bucket(t, []float32{1}))
		next := future.Then(func(v c10d.Result) (c10d.Result, error) { return v, nil })
		future.Close()
		python(t, "sample.finish", true)
		value, err := next.Wait(testutil.Soon(t))
		require.NoError(t, err)
		assert.NotNil(t, resultObject(value))
		next.Close()
	})
}

func TestManyFuturesCompleteOnPythonThreadsAtOnce(t *testing.T) {
	check(t, "", func(t *testing.T) {
		n := max(20, slow.Of(200))
		h := load(t, "sample:pending", HookConfig{})
		futures := make([]*c10d.Future[c10d.Result], n)
		buckets := make([]*c10d.GradBucket, n)
		for i := range futures {
			buckets[i] = bucket(t, []float32{float32(i), 1})
			var err error
			futures[i], err = h.RunHook(context.Background(), buckets[i])
			require.NoError(t, err)
		}
		var group sync.WaitGroup
		for i, future := range futures {
			group.Go(func() {
				value, err := future.Wait(testutil.Soon(t))
				if !assert.NoError(t, err) {
					return
				}
				result, err := h.ParseHookResult(buckets[i], value)
				assert.NoError(t, err)
				s, err := tensor.Slice[float32](result)
				assert.NoError(t, err)
				assert.Equal(t, []float32{float32(2 * i), 2}, s)
				result.Close()
				future.Close()
			})
		}
		assert.Equal(t, int64(n), python(t, "sample.finish", true))
		group.Wait()
	})
}

func TestABucketMayChangeWhileItsFutureIsPending(t *testing.T) {
	old, fresh := []float32{1, 2}, []float32{30, 40}
	changes := map[string]func(t *testing.T, b *c10d.GradBucket){
		"it is closed": func(_ *testing.T, b *c10d.GradBucket) { b.Close() },
		"its memory is set": func(t *testing.T, b *c10d.GradBucket) {
			require.NoError(t, b.SetBuffer(tensorOf(t, tensor.Float32, fresh)))
		},
		"it is forgotten": func(_ *testing.T, b *c10d.GradBucket) { forget(b) },
		"another hook is run": func(t *testing.T, b *c10d.GradBucket) {
			_, err := run(t, load(t, "noop", HookConfig{}), b)
			require.NoError(t, err)
		},
		"nothing, in contrast": func(*testing.T, *c10d.GradBucket) {},
	}
	for name, change := range changes {
		for _, double := range []bool{false, true} {
			check(t, fmt.Sprintf("%s (a new tensor: %v)", name, double), func(t *testing.T) {
				b := bucket(t, old)
				h := load(t, "sample:pending", HookConfig{})
				future, err := h.RunHook(context.Background(), b)
				require.NoError(t, err)
				defer future.Close()
				h.Close() // which changes nothing either
				change(t, b)
				python(t, "sample.finish", double)
				value, err := future.Wait(testutil.Soon(t))
				require.NoError(t, err)
				result, err := h.ParseHookResult(b, value)
				require.NoError(t, err)
				defer result.Close()
				want := map[bool][]float32{false: old, true: {2, 4}}[double]
				assert.Equal(t, want, values(t, result), "of the memory that the hook was called with")
			})
		}
	}
}

// A hook that is done at return, with the bucket's own buffer, has the same
// future at each call, and a step with it allocates nothing of Go's.
func TestASteadyCallMakesNothing(t *testing.T) {
	check(t, "", func(t *testing.T) {
		h, b := load(t, "noop", HookConfig{}), bucket(t, []float32{1, 2, 3})
		ctx := context.Background()
		step := func() *c10d.Future[c10d.Result] {
			future, err := h.RunHook(ctx, b)
			require.NoError(t, err)
			value, err := future.Wait(ctx)
			require.NoError(t, err)
			result, err := h.ParseHookResult(b, value)
			require.NoError(t, err)
			result.Close()
			future.Close()
			return future
		}
		first := step()
		assert.Same(t, first, step())
		if testutil.FullSpeed { // not what a checked build adds
			assert.Zero(t, testing.AllocsPerRun(1000, func() { step() }))
		}
		// Closed as often as there were calls, it is as good as a new one.
		seen := make(chan c10d.Result, 1)
		next := first.Then(func(v c10d.Result) (c10d.Result, error) { seen <- v; return v, nil })
		defer next.Close()
		_, err := next.Wait(testutil.Soon(t))
		require.NoError(t, err)
		assert.Same(t, b.Buffer(), tensorIn(<-seen))

		memory := tensorOf(t, tensor.Float32, []float32{4, 5, 6})
		require.NoError(t, b.SetBuffer(memory))
		assert.NotSame(t, first, step(), "of another buffer")
		value, err := first.Wait(ctx)
		require.NoError(t, err)
		assert.NotSame(t, memory, tensorIn(value))
	})
}

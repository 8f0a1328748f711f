package pyhook

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/internal/testutil"
)

// processors has Go use n for the test.
func processors(t *testing.T, n int) {
	t.Helper()
	before := runtime.GOMAXPROCS(n)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

// A goroutine that waits is blocked in C, or not where that would leave Go no
// processor: the same comes of it.
func TestManyWaitForManyFutures(t *testing.T) {
	for _, n := range []int{1, 2, 16} {
		check(t, "", func(t *testing.T) {
			processors(t, n)
			const futures, waiters = 20, 4
			var group sync.WaitGroup
			var all []*c10d.Future[c10d.Result]
			for range futures {
				future := hookFuture(t, "sample:pending", bucket(t, []float32{1, 2}))
				all = append(all, future)
				for i := range waiters {
					ctx, cancel := context.Background(), context.CancelFunc(func() {})
					if i%2 == 1 {
						ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(20))*time.Millisecond)
					}
					group.Go(func() {
						defer cancel()
						value, err := future.Wait(ctx)
						if err != nil {
							assert.ErrorIs(t, err, context.DeadlineExceeded)
							return
						}
						assert.NotNil(t, resultObject(value), "the hook's own tensor")
					})
				}
			}
			time.Sleep(10 * time.Millisecond)
			assert.Equal(t, int64(futures), python(t, "sample.finish", true))
			group.Wait()
			for _, future := range all {
				future.Close()
			}
			assert.Zero(t, blocking.Load())
		})
	}
}

func TestWhoIsBlockedIsFreedByTheContextAndByClose(t *testing.T) {
	processors(t, 4)
	check(t, "context", func(t *testing.T) {
		future := hookFuture(t, "sample:pending", bucket(t, []float32{1}))
		ctx, cancel := context.WithCancel(context.Background())
		waiting := make(chan error)
		go func() { _, err := future.Wait(ctx); waiting <- err }()
		testutil.Eventually(t, func() bool { return blocking.Load() == 1 })
		cancel()
		saysAll(t, <-waiting, context.Canceled, "sample.pending", 2)
		assert.Zero(t, blocking.Load())
		go func() { _, err := future.Wait(context.Background()); waiting <- err }() // it may be waited for again
		python(t, "sample.finish", true)
		require.NoError(t, <-waiting)
		future.Close()
	})
	check(t, "Close", func(t *testing.T) {
		future := hookFuture(t, "sample:pending", bucket(t, []float32{1}))
		waiting := make(chan error)
		go func() { _, err := future.Wait(context.Background()); waiting <- err }()
		testutil.Eventually(t, func() bool { return blocking.Load() == 1 })
		future.Close()
		saysAll(t, <-waiting, c10d.ErrClosed, "sample.pending", 2)
		assert.Zero(t, blocking.Load())
		python(t, "sample.finish", true)
	})
}

func TestTorchsThreadsKeepTheirThreadState(t *testing.T) {
	if freeThreaded(t) {
		t.Skip("without a GIL no state is kept for another's thread: cbridge/threadstate.c")
	}
	b := bucket(t, make([]float32, 1<<20))
	hook := load(t, "sample:counts_callbacks", HookConfig{})
	var most, all int64 // gloo has two threads, and may be done before the callback is hung on
	for all < 30 {
		future, err := hook.RunHook(context.Background(), b)
		require.NoError(t, err)
		_, err = future.Wait(testutil.Soon(t))
		require.NoError(t, err)
		future.Close()
		counts := python(t, "sample.most_callbacks").([]any)
		most, all = counts[0].(int64), counts[1].(int64)
	}
	assert.GreaterOrEqual(t, most, int64(10))
}

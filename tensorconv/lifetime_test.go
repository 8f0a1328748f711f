package tensorconv_test

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
	"pyhook/internal/testutil"
	"pyhook/internal/torchtest"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

// foreign makes a tensor over memory of another, with a count of its releases.
func foreign(t testing.TB, of *tensor.Tensor) (*tensor.Tensor, *atomic.Int64) {
	t.Helper()
	count := new(atomic.Int64)
	x, err := tensor.FromPointer(of.Data(), of.DType(), of.Shape(), nil, tensor.Device{}, func() { count.Add(1) })
	require.NoError(t, err)
	return x, count
}

// releasedOnce asserts that the release function is called soon, and no more.
func releasedOnce(t testing.TB, count *atomic.Int64) {
	t.Helper()
	testutil.Eventually(t, func() bool { return count.Load() == 1 })
	runtime.GC()
	assert.Equal(t, int64(1), count.Load())
}

func TestToPython_Memory(t *testing.T) {
	t.Run("it stays while Python holds the tensor of a closed one", func(t *testing.T) {
		torchtest.NoLeaks(t)
		before := tensor.LiveMemory()
		x, err := tensor.New(tensor.Float32, 1000)
		require.NoError(t, err)
		values, err := tensor.Slice[float32](x)
		require.NoError(t, err)
		for i := range values {
			values[i] = 3
		}
		o := torchtest.ToPython(t, x)
		x.Close()
		for range 100 { // other memory of that size
			torchtest.New(t, tensor.Float32, 1000).Close()
		}
		assert.Equal(t, before+1, tensor.LiveMemory())
		sum, err := o.Call("sum")
		require.NoError(t, err)
		defer sum.Close()
		v, err := sum.CallValue("item")
		require.NoError(t, err)
		assert.Equal(t, 3000.0, v)
		o.Close()
		assert.Equal(t, before, tensor.LiveMemory())
	})
	t.Run("a Python view alone keeps it", func(t *testing.T) {
		torchtest.NoLeaks(t)
		base := torchtest.New(t, tensor.Float32, 10)
		x, count := foreign(t, base)
		o := torchtest.ToPython(t, x)
		x.Close()
		view, err := o.Call("__getitem__", 4)
		require.NoError(t, err)
		o.Close()
		time.Sleep(20 * time.Millisecond)
		assert.Zero(t, count.Load())
		view.Close()
		releasedOnce(t, count)
	})
	t.Run("a Go view alone keeps it", func(t *testing.T) {
		torchtest.NoLeaks(t)
		x, count := foreign(t, torchtest.New(t, tensor.Float32, 10))
		view, err := x.View(2, []int64{3}, nil)
		require.NoError(t, err)
		x.Close()
		time.Sleep(20 * time.Millisecond)
		assert.Zero(t, count.Load())
		view.Close()
		releasedOnce(t, count)
	})
	t.Run("a Go slice is pinned until Python lets go", func(t *testing.T) {
		torchtest.NoLeaks(t)
		collected := make(chan struct{})
		o := func() *cbridge.Object {
			values := make([]float32, 1<<20)
			for i := range values {
				values[i] = 2
			}
			runtime.AddCleanup(&values[0], func(c chan struct{}) { close(c) }, collected)
			x, err := tensor.FromSlice(values)
			require.NoError(t, err)
			defer x.Close()
			return torchtest.ToPython(t, x)
		}()
		for range 3 {
			runtime.GC()
			_ = make([]float32, 1<<20)
		}
		v, err := o.CallValue("sum")
		require.Error(t, err, v) // a tensor is no Go value
		mean, err := o.Call("mean")
		require.NoError(t, err)
		defer mean.Close()
		v, err = mean.CallValue("item")
		require.NoError(t, err)
		assert.Equal(t, 2.0, v)
		select {
		case <-collected:
			t.Fatal("collected while Python holds it")
		default:
		}
		o.Close()
		testutil.Eventually(t, func() bool {
			runtime.GC()
			select {
			case <-collected:
				return true
			default:
				return false
			}
		}, "still pinned")
	})
	t.Run("forgotten tensors are collected", func(t *testing.T) {
		torchtest.NoLeaks(t)
		var counts []*atomic.Int64
		base := torchtest.New(t, tensor.Float32, 10)
		for range 100 {
			_, err := tensor.New(tensor.Float32, 100)
			require.NoError(t, err)
			x, count := foreign(t, base)
			_, err = x.View(1, []int64{2}, nil)
			require.NoError(t, err)
			_, err = tensor.FromSlice(make([]int64, 3))
			require.NoError(t, err)
			_, err = tensorconv.ToPython(x)
			require.NoError(t, err)
			counts = append(counts, count)
		}
		testutil.Eventually(t, func() bool {
			runtime.GC()
			_ = cbridge.Attached(func() {})
			for _, count := range counts {
				if count.Load() != 1 {
					return false
				}
			}
			return true
		})
	})
	t.Run("a hundred thousand exports leave it flat", func(t *testing.T) {
		torchtest.NoLeaks(t)
		once := func(n int) {
			for i := range n {
				x, err := tensor.New(tensor.Float32, 256)
				require.NoError(t, err)
				o, err := tensorconv.ToPython(x)
				require.NoError(t, err)
				x.Close()
				if i%4 == 0 {
					y, err := tensorconv.FromPython(o)
					require.NoError(t, err)
					y.Close()
				}
				o.Close()
			}
		}
		n := torchtest.Often(100_000)
		if testing.Short() {
			n = 1000
		}
		once(n / 5)
		runtime.GC()
		before := resident(t)
		once(n)
		runtime.GC()
		grown := resident(t) - before
		t.Logf("the resident set grew by %d KiB in %d exports", grown>>10, n)
		if !torchtest.UnderASan() { // which keeps what is freed for a while
			assert.Less(t, grown, 4<<20+int64(n)*100) // each is 1 KiB and its descriptions
		}
	})
}

func TestToPython_LastUse(t *testing.T) {
	torchtest.NoLeaks(t)
	base := torchtest.New(t, tensor.Float32, 10)
	t.Run("a thread of Python's", func(t *testing.T) {
		x, count := foreign(t, base)
		o := torchtest.ToPython(t, x)
		x.Close()
		torchtest.Call(t, "hold", o)
		o.Close()
		torchtest.Call(t, "drop_in_thread")
		releasedOnce(t, count)
	})
	t.Run("without the GIL", func(t *testing.T) {
		x, count := foreign(t, base)
		capsule, err := tensorconv.Capsule(x)
		require.NoError(t, err)
		x.Close()
		torchtest.Call(t, "delete_without_gil", capsule)
		capsule.Close()
		releasedOnce(t, count)
	})
	t.Run("torch's autograd", func(t *testing.T) {
		x, count := foreign(t, base)
		o := torchtest.ToPython(t, x)
		x.Close()
		torchtest.Call(t, "backward_through", o)
		o.Close()
		releasedOnce(t, count)
	})
}

func TestTensor_Close(t *testing.T) {
	torchtest.NoLeaks(t)
	x, count := foreign(t, torchtest.New(t, tensor.Float32, 4))
	y := torchtest.New(t, tensor.Float32, 4)
	x.Close()
	x.Close()
	(*tensor.Tensor)(nil).Close()
	releasedOnce(t, count)
	uses := map[string]func() error{
		"View":      func() error { _, err := x.View(0, nil, nil); return err },
		"Python":    func() error { _, err := tensorconv.ToPython(x); return err },
		"Slice":     func() error { _, err := tensor.Slice[float32](x); return err },
		"RawBytes":  func() error { _, err := tensor.RawBytes(x); return err },
		"Copy from": func() error { return tensor.Copy(y, x) },
		"Copy to":   func() error { return tensor.Copy(x, y) },
		"Divide":    func() error { return tensor.Divide(x, 2) },
	}
	for name, use := range uses {
		t.Run(name, func(t *testing.T) { assert.ErrorIs(t, use(), tensor.ErrClosed) })
	}
	assert.Equal(t, "float32[4] on cpu", x.String())
}

func TestFromPointer(t *testing.T) {
	t.Run("release functions that wait hold up no deleter", func(t *testing.T) {
		torchtest.NoLeaks(t)
		base := torchtest.New(t, tensor.UInt8, 1)
		wait := make(chan struct{})
		first, err := tensor.FromPointer(base.Data(), tensor.UInt8, []int64{1}, nil, tensor.Device{}, func() { <-wait })
		require.NoError(t, err)
		first.Close()
		const n = 70_000 // more than a pipe holds bytes
		var released atomic.Int64
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range n {
				x, err := tensor.FromPointer(base.Data(), tensor.UInt8, []int64{1}, nil, tensor.Device{}, func() { released.Add(1) })
				if err != nil {
					panic(err)
				}
				x.Close()
			}
		}()
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			t.Error("a deleter waits for the reaper")
		}
		close(wait)
		testutil.Eventually(t, func() bool { return released.Load() == n })
	})
}

// resident returns the bytes of memory that the process has.
func resident(t testing.TB) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	var size, pages int64
	_, err = fmt.Sscan(string(text), &size, &pages)
	require.NoError(t, err)
	return pages * int64(os.Getpagesize())
}

func TestToPython_Goroutines(t *testing.T) {
	t.Run("tensors serve many", func(t *testing.T) {
		torchtest.NoLeaks(t)
		x := torchtest.New(t, tensor.Float32, 64)
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				for range torchtest.Often(200) {
					view, err := x.View(8, []int64{8}, nil)
					if !assert.NoError(t, err) {
						return
					}
					o, err := tensorconv.ToPython(view)
					assert.NoError(t, err)
					view.Close()
					back, err := tensorconv.FromPython(o)
					assert.NoError(t, err)
					o.Close()
					y, err := tensor.New(tensor.Float16, 8)
					assert.NoError(t, err)
					assert.NoError(t, tensor.Copy(y, back))
					y.Close()
					back.Close()
				}
			})
		}
		group.Wait()
	})
	t.Run("Close beside other uses is safe", func(t *testing.T) {
		torchtest.NoLeaks(t)
		for range torchtest.Often(300) {
			x, err := tensor.New(tensor.Float32, 1024)
			require.NoError(t, err)
			var group sync.WaitGroup
			for _, use := range []func() error{
				func() error { y, err := x.View(4, []int64{4}, nil); y.Close(); return err },
				func() error { o, err := tensorconv.ToPython(x); o.Close(); return err },
				func() error { return tensor.Divide(x, 2) },
				func() error { x.Close(); return nil },
			} {
				group.Go(func() {
					if err := use(); err != nil {
						assert.ErrorIs(t, err, tensor.ErrClosed)
					}
				})
			}
			group.Wait()
		}
	})
}

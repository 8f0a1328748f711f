package tensorconv

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
)

// foreign makes a tensor over memory of another, with a count of its releases.
func foreign(t testing.TB, of *Tensor) (*Tensor, *atomic.Int64) {
	t.Helper()
	count := new(atomic.Int64)
	x, err := FromPointer(of.Data(), of.DType(), of.Shape(), nil, Device{}, func() { count.Add(1) })
	require.NoError(t, err)
	return x, count
}

// releasedOnce asserts that the release function is called soon, and no more.
func releasedOnce(t testing.TB, count *atomic.Int64) {
	t.Helper()
	assert.Eventually(t, func() bool { return count.Load() == 1 }, 5*time.Second, time.Millisecond)
	runtime.GC()
	assert.Equal(t, int64(1), count.Load())
}

func TestMemoryStaysWhilePythonHoldsTheTensorOfAClosedOne(t *testing.T) {
	noLeaks(t)
	before := LiveMemory()
	x, err := New(Float32, 1000)
	require.NoError(t, err)
	values, err := Slice[float32](x)
	require.NoError(t, err)
	for i := range values {
		values[i] = 3
	}
	o := toPython(t, x)
	x.Close()
	for range 100 { // other memory of that size
		newClosed(t, Float32, 1000).Close()
	}
	assert.Equal(t, before+1, LiveMemory())
	sum, err := o.Call("sum")
	require.NoError(t, err)
	defer sum.Close()
	v, err := sum.CallValue("item")
	require.NoError(t, err)
	assert.Equal(t, 3000.0, v)
	o.Close()
	assert.Equal(t, before, LiveMemory())
}

func TestAPythonViewAloneKeepsTheMemory(t *testing.T) {
	noLeaks(t)
	base := newClosed(t, Float32, 10)
	x, count := foreign(t, base)
	o := toPython(t, x)
	x.Close()
	view, err := o.Call("__getitem__", 4)
	require.NoError(t, err)
	o.Close()
	time.Sleep(20 * time.Millisecond)
	assert.Zero(t, count.Load())
	view.Close()
	releasedOnce(t, count)
}

func TestAGoViewAloneKeepsTheMemory(t *testing.T) {
	noLeaks(t)
	x, count := foreign(t, newClosed(t, Float32, 10))
	view, err := x.View(2, []int64{3}, nil)
	require.NoError(t, err)
	x.Close()
	time.Sleep(20 * time.Millisecond)
	assert.Zero(t, count.Load())
	view.Close()
	releasedOnce(t, count)
}

func TestTheLastUseMayEndOnAnyThreadWithAndWithoutTheGIL(t *testing.T) {
	noLeaks(t)
	base := newClosed(t, Float32, 10)
	t.Run("a thread of Python's", func(t *testing.T) {
		x, count := foreign(t, base)
		o := toPython(t, x)
		x.Close()
		call(t, "hold", o)
		o.Close()
		call(t, "drop_in_thread")
		releasedOnce(t, count)
	})
	for _, versioned := range []bool{false, true} {
		t.Run(fmt.Sprintf("without the GIL, versioned %v", versioned), func(t *testing.T) {
			x, count := foreign(t, base)
			capsule, err := x.Capsule(versioned)
			require.NoError(t, err)
			x.Close()
			call(t, "delete_without_gil", capsule, versioned)
			capsule.Close()
			releasedOnce(t, count)
		})
	}
	t.Run("torch's autograd", func(t *testing.T) {
		x, count := foreign(t, base)
		o := toPython(t, x)
		x.Close()
		call(t, "backward_through", o)
		o.Close()
		releasedOnce(t, count)
	})
}

func TestAGoSliceIsPinnedUntilPythonLetsGo(t *testing.T) {
	noLeaks(t)
	collected := make(chan struct{})
	o := func() *cbridge.Object {
		values := make([]float32, 1<<20)
		for i := range values {
			values[i] = 2
		}
		runtime.AddCleanup(&values[0], func(c chan struct{}) { close(c) }, collected)
		x, err := FromSlice(values)
		require.NoError(t, err)
		defer x.Close()
		return toPython(t, x)
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
	assert.Eventually(t, func() bool {
		runtime.GC()
		select {
		case <-collected:
			return true
		default:
			return false
		}
	}, 5*time.Second, 5*time.Millisecond, "still pinned")
}

func TestForgottenTensorsAreCollected(t *testing.T) {
	noLeaks(t)
	var counts []*atomic.Int64
	base := newClosed(t, Float32, 10)
	for range 100 {
		_, err := New(Float32, 100)
		require.NoError(t, err)
		x, count := foreign(t, base)
		_, err = x.View(1, []int64{2}, nil)
		require.NoError(t, err)
		_, err = FromSlice(make([]int64, 3))
		require.NoError(t, err)
		_, err = x.Python()
		require.NoError(t, err)
		counts = append(counts, count)
	}
	assert.Eventually(t, func() bool {
		runtime.GC()
		_ = cbridge.Attached(func() {})
		for _, count := range counts {
			if count.Load() != 1 {
				return false
			}
		}
		return true
	}, 5*time.Second, 5*time.Millisecond)
}

func TestCloseIsIdempotentAndLaterUseIsErrClosed(t *testing.T) {
	noLeaks(t)
	x, count := foreign(t, newClosed(t, Float32, 4))
	y := newClosed(t, Float32, 4)
	x.Close()
	x.Close()
	(*Tensor)(nil).Close()
	releasedOnce(t, count)
	uses := map[string]func() error{
		"View":      func() error { _, err := x.View(0, nil, nil); return err },
		"Python":    func() error { _, err := x.Python(); return err },
		"Capsule":   func() error { _, err := x.Capsule(true); return err },
		"Slice":     func() error { _, err := Slice[float32](x); return err },
		"RawBytes":  func() error { _, err := RawBytes(x); return err },
		"Copy from": func() error { return Copy(y, x) },
		"Copy to":   func() error { return Copy(x, y) },
		"Divide":    func() error { return Divide(x, 2) },
	}
	for name, use := range uses {
		t.Run(name, func(t *testing.T) { assert.ErrorIs(t, use(), ErrClosed) })
	}
	assert.Equal(t, "float32[4] on cpu", x.String())
}

func TestReleaseFunctionsThatWaitHoldUpNoDeleter(t *testing.T) {
	noLeaks(t)
	base := newClosed(t, UInt8, 1)
	wait := make(chan struct{})
	first, err := FromPointer(base.Data(), UInt8, []int64{1}, nil, Device{}, func() { <-wait })
	require.NoError(t, err)
	first.Close()
	const n = 70_000 // more than a pipe holds bytes
	var released atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range n {
			x, err := FromPointer(base.Data(), UInt8, []int64{1}, nil, Device{}, func() { released.Add(1) })
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
	assert.Eventually(t, func() bool { return released.Load() == n }, 10*time.Second, 5*time.Millisecond)
}

// underASan reports whether this binary was built with -asan.
func underASan() bool {
	maps, _ := os.ReadFile("/proc/self/maps")
	return strings.Contains(string(maps), "/libasan.so")
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

func TestAHundredThousandExportsLeaveMemoryFlat(t *testing.T) {
	noLeaks(t)
	once := func(n int) {
		for i := range n {
			x, err := New(Float32, 256)
			require.NoError(t, err)
			o, err := x.Python()
			require.NoError(t, err)
			x.Close()
			if i%4 == 0 {
				y, err := FromPython(o)
				require.NoError(t, err)
				y.Close()
			}
			o.Close()
		}
	}
	n := often(100_000)
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
	if !underASan() { // which keeps what is freed for a while
		assert.Less(t, grown, 4<<20+int64(n)*100) // each is 1 KiB and its descriptions
	}
}

func TestTensorsServeManyGoroutines(t *testing.T) {
	noLeaks(t)
	x := newClosed(t, Float32, 64)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range often(200) {
				view, err := x.View(8, []int64{8}, nil)
				if !assert.NoError(t, err) {
					return
				}
				o, err := view.Python()
				assert.NoError(t, err)
				view.Close()
				back, err := FromPython(o)
				assert.NoError(t, err)
				o.Close()
				y, err := New(Float16, 8)
				assert.NoError(t, err)
				assert.NoError(t, Copy(y, back))
				y.Close()
				back.Close()
			}
		})
	}
	group.Wait()
}

func TestCloseBesideOtherUsesIsSafe(t *testing.T) {
	noLeaks(t)
	for range often(300) {
		x, err := New(Float32, 1024)
		require.NoError(t, err)
		var group sync.WaitGroup
		for _, use := range []func() error{
			func() error { y, err := x.View(4, []int64{4}, nil); y.Close(); return err },
			func() error { o, err := x.Python(); o.Close(); return err },
			func() error { return Divide(x, 2) },
			func() error { x.Close(); return nil },
		} {
			group.Go(func() {
				if err := use(); err != nil {
					assert.ErrorIs(t, err, ErrClosed)
				}
			})
		}
		group.Wait()
	}
}

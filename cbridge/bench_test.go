package cbridge

import (
	"runtime"
	"testing"
	"unsafe"

	"pyhook/internal/ctest"
)

// The ways of getting a goroutine's call into Python; docs/decisions/
// 0003-thread-states.md has the medians and what was decided.
//
//	go test -run '^$' -bench . -count 6 -benchtime 100ms ./cbridge

// emptyFunction hands f the C side of this package and a Python function that does nothing.
func emptyFunction(b *testing.B, f func(bridge *ctest.Bridge, fn unsafe.Pointer)) {
	b.Helper()
	m, err := python.Module("bench_module", "def nothing(): pass\n")
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	fn, err := m.Attr("nothing")
	if err != nil {
		b.Fatal(err)
	}
	defer fn.Close()
	_ = fn.Pointer(func(ptr unsafe.Pointer) error { f(bridge(), ptr); return nil })
}

// onFreshThread runs f locked to an OS thread that has no thread state. Those
// that have one are held until such a thread comes.
func onFreshThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if ctest.HasState() {
			onFreshThread(f)
			return
		}
		f()
	}()
	<-done
}

// pool is the alternative to kept states: workers locked to their threads.
type pool chan func()

func newPool(workers int) pool {
	p := make(pool)
	for range workers {
		go func() {
			runtime.LockOSThread()
			for f := range p {
				f()
			}
		}()
	}
	return p
}

func (p pool) do(f func()) {
	done := make(chan struct{})
	p <- func() { f(); close(done) }
	<-done
}

func BenchmarkEmptyCall(b *testing.B) {
	emptyFunction(b, func(bridge *ctest.Bridge, fn unsafe.Pointer) {
		b.Run("KeptState", func(b *testing.B) {
			for b.Loop() {
				bridge.Kept(fn)
			}
		})
		b.Run("FreshState", func(b *testing.B) {
			onFreshThread(func() {
				for b.Loop() {
					ctest.Ensured(fn)
				}
			})
		})
		b.Run("PoolOfWorkers", func(b *testing.B) {
			p := newPool(runtime.GOMAXPROCS(0))
			defer close(p)
			for b.Loop() {
				p.do(func() { bridge.Kept(fn) })
			}
		})
		b.Run("InsideAttached", func(b *testing.B) {
			_ = Attached(func() {
				for b.Loop() {
					ctest.Plain(fn)
				}
			})
		})
	})
}

func BenchmarkEmptyCallFromManyGoroutines(b *testing.B) {
	const each = 4 // times GOMAXPROCS: eight on two cores
	emptyFunction(b, func(bridge *ctest.Bridge, fn unsafe.Pointer) {
		b.Run("KeptState", func(b *testing.B) {
			b.SetParallelism(each)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					bridge.Kept(fn)
				}
			})
		})
		b.Run("FreshState", func(b *testing.B) {
			b.SetParallelism(each)
			b.RunParallel(func(pb *testing.PB) {
				onFreshThread(func() {
					for pb.Next() {
						ctest.Ensured(fn)
					}
				})
			})
		})
		b.Run("PoolOfWorkers", func(b *testing.B) {
			p := newPool(runtime.GOMAXPROCS(0))
			defer close(p)
			b.SetParallelism(each)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					p.do(func() { bridge.Kept(fn) })
				}
			})
		})
	})
}

// BenchmarkAPI is what users of the package pay.
func BenchmarkAPI(b *testing.B) {
	m, err := python.Module("bench_module", "def nothing(*args): pass\n")
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	fn, err := m.Attr("nothing")
	if err != nil {
		b.Fatal(err)
	}
	defer fn.Close()
	b.Run("Attached", func(b *testing.B) {
		for b.Loop() {
			_ = Attached(func() {})
		}
	})
	invoke := func(args ...any) func(b *testing.B) {
		return func(b *testing.B) {
			for b.Loop() {
				o, err := fn.Invoke(args, nil)
				if err != nil {
					b.Fatal(err)
				}
				o.Close()
			}
		}
	}
	b.Run("Invoke", invoke())
	b.Run("InvokeWithThreeArguments", invoke(1, "two", fn))
	b.Run("ErrorRaised", func(b *testing.B) {
		for b.Loop() {
			if _, err := m.Call("absent"); err == nil {
				b.Fatal("no error")
			}
		}
	})
	f, err := NewFunc("f", func([]*Object) (any, error) { return nil, nil })
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.Run("GoFunctionFromPython", func(b *testing.B) {
		for b.Loop() {
			o, err := f.Invoke(nil, nil)
			if err != nil {
				b.Fatal(err)
			}
			o.Close()
		}
	})
}

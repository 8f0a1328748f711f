package pyhook

import (
	"sync/atomic"
)

// pythonResult is the c10d.Result of a Python hook, or the value of any torch future: the Python
// object that it completed with. Of a hook that completed with the bucket's own buffer it is a
// c10d.TensorResult instead.
type pythonResult struct {
	object   *Object
	python   *pythonBucket // what the hook was called with, to read object by; nil for other futures
	released atomic.Bool
}

// Release: see c10d.Result.
func (r *pythonResult) Release() {
	if r.released.CompareAndSwap(false, true) {
		r.object.Close()
		r.python.release()
	}
}

package worker

import (
	"sync/atomic"
	"unsafe"

	"pyhook/worker/internal/ipc"
)

// vitals is a page that both processes map. The worker writes it, without Python, so that a hook
// that holds Python's global lock does not keep the trainer from reading it.
type vitals struct {
	heartbeat atomic.Uint64 // the worker counts it up every beatEvery
	ending    atomic.Bool   // the worker has destroyed its groups, and ends Python
}

const vitalsBytes = 4096

func vitalsIn(r *ipc.Region) *vitals {
	const _ = uint(vitalsBytes - unsafe.Sizeof(vitals{}))
	return (*vitals)(r.Base())
}

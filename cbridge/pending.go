package cbridge

// #include "pending.h"
// #cgo noescape pyh_pending_arm
// #cgo nocallback pyh_pending_arm
// #cgo noescape pyh_pending_block
// #cgo nocallback pyh_pending_block
import "C"

import (
	"context"
	"sync"
)

// Pending is a torch future that is not done yet, with a callback of this package on it. torch
// never frees a future with a callback that never completes, since its own callback holds it
// (torch/csrc/jit/python/pybind_utils.h, PythonFutureWrapper::add_done_callback). Abandon frees
// what belongs to it here.
//
// Do not copy an armed Pending. Any goroutine may call its methods.
type Pending struct {
	c  *C.pyh_pending // a reference, while it is not armed or in the table
	id uintptr
	to Receiver
}

// Receiver gets the result of a Pending. A thread of torch calls it once, with the GIL held: it
// must not wait for a lock whose holder waits for the GIL.
type Receiver interface {
	FutureDone(r Result)
}

// armed is the table of Pendings whose receivers wait, by the ids that C knows them by. Who removes
// an entry has its result and its reference. torch's threads lock it with the GIL held, so whoever
// holds the lock must not wait for Python. The ids are no cgo.Handle: Receivers iterates over them,
// and a handle costs three more allocations for each future.
var armed = struct {
	sync.Mutex
	last uintptr
	all  map[uintptr]*Pending
}{all: map[uintptr]*Pending{}}

// Pendings returns how many Pendings torch or Go still holds.
func Pendings() int64 { return int64(C.pyh_pending_count()) }

// Receivers returns the receivers that wait.
func Receivers() []Receiver {
	armed.Lock()
	defer armed.Unlock()
	receivers := make([]Receiver, 0, len(armed.all))
	for _, p := range armed.all {
		receivers = append(receivers, p.to)
	}
	return receivers
}

// Pending returns the Pending of a call whose outcome is Waiting. The caller must arm it.
func (r *Result) Pending() Pending { return Pending{c: r.pending} }

// Ask stores in r whether a torch future is Done, Failed or Waiting. It does not wait.
func (t *TorchAPI) Ask(future *Object, r *Result) error {
	if err := future.use(); err != nil {
		return err
	}
	defer future.done()
	var c C.pyh_result
	C.pyh_ask_future(t.c, future.ptr, &c)
	*r = resultOf(&c)
	return nil
}

// Arm gives the result to the receiver once there is one. If the future is done already, Arm stores
// the result in r, returns true, and does not call the receiver. Call it once.
func (p *Pending) Arm(to Receiver, r *Result) (done bool) {
	var c C.pyh_result
	p.to = to
	armed.Lock()
	armed.last++
	p.id = armed.last
	done = C.pyh_pending_arm(p.c, C.uintptr_t(p.id), &c) == 1
	if !done {
		armed.all[p.id] = p
	}
	armed.Unlock()
	if done {
		*r = resultOf(&c)
		C.pyh_pending_release(p.c)
	}
	return done
}

//export pyhookFutureDone
func pyhookFutureDone(id C.uintptr_t, result *C.pyh_result) {
	if p := take(uintptr(id)); p != nil {
		p.to.FutureDone(resultOf(result))
		C.pyh_pending_release(p.c)
	}
}

// take removes the entry. It returns nil if another caller was first.
func take(id uintptr) *Pending {
	armed.Lock()
	defer armed.Unlock()
	p := armed.all[id]
	delete(armed.all, id)
	return p
}

// whileArmed runs f, and returns true, if p is in the table, which keeps its C part alive.
func (p *Pending) whileArmed(f func()) bool {
	armed.Lock()
	defer armed.Unlock()
	_, is := armed.all[p.id]
	if is {
		f()
	}
	return is
}

// Block blocks the calling thread until the future is done or ctx has ended. It waits in C on a
// condition variable, so that the thread which completes the future need not enter Go, nor Go's
// scheduler find a thread for this goroutine. True: r is the result, and the receiver is not
// called. False: wait for the receiver. One goroutine at a time, which is not attached.
func (p *Pending) Block(ctx context.Context, r *Result) bool {
	if !p.whileArmed(func() { C.pyh_pending_retain(p.c) }) {
		return false
	}
	stop := func() bool { return true }
	if ctx.Done() != nil {
		stop = context.AfterFunc(ctx, func() { p.whileArmed(func() { C.pyh_pending_wake(p.c) }) })
	}
	var c C.pyh_result
	done := C.pyh_pending_block(p.c, &c) == 1
	stop()
	done = done && take(p.id) != nil
	if done {
		*r = resultOf(&c)
		C.pyh_pending_release(p.c)
	}
	C.pyh_pending_release(p.c)
	return done
}

// Abandon gives the result up. True: the receiver will not be called, and the invocation's objects
// may be closed. False: it is being called, or has been.
func (p *Pending) Abandon() bool {
	won := false
	p.whileArmed(func() {
		if won = C.pyh_pending_abandon(p.c) == 1; won {
			delete(armed.all, p.id)
		}
	})
	if won {
		C.pyh_pending_release(p.c)
	}
	return won
}

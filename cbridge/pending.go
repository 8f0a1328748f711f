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

// Pending is a torch future that is not done yet, with a callback of ours on it. A
// torch future that never completes is never freed once it has one: torch's own
// callback holds it (torch/csrc/jit/python/pybind_utils.h,
// PythonFutureWrapper::add_done_callback). Abandon frees all that hangs on it here.
//
// It must not be copied once it is armed; then its methods may be called from any
// goroutine.
type Pending struct {
	c  *C.pyh_pending // a reference, while it is not armed or in the table
	id uintptr
	to Receiver
}

// Receiver gets the result of a Pending. It is called once, on a thread of torch that
// holds the GIL: it must not wait for a lock that somebody holds who waits for the GIL.
type Receiver interface {
	FutureDone(r Result)
}

// armed has those whose receivers wait, by the ids that C knows them by: whoever takes
// one out has its result, and its reference. A thread of torch takes the lock while it
// holds the GIL: whoever holds the lock must not wait for Python. The ids are no
// cgo.Handle, since Receivers goes through all of them, and a handle is three
// allocations more for each future.
var armed = struct {
	sync.Mutex
	last uintptr
	all  map[uintptr]*Pending
}{all: map[uintptr]*Pending{}}

// Pendings counts what torch or Go still holds of them.
func Pendings() int64 { return int64(C.pyh_pending_count()) }

// Receivers returns those that wait.
func Receivers() []Receiver {
	armed.Lock()
	defer armed.Unlock()
	receivers := make([]Receiver, 0, len(armed.all))
	for _, p := range armed.all {
		receivers = append(receivers, p.to)
	}
	return receivers
}

// Pending returns what waits for the future of a call whose outcome is Waiting. It
// must be armed.
func (r *Result) Pending() Pending { return Pending{c: r.pending} }

// Ask tells how a torch future stands, Done, Failed or Waiting, and does not wait.
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

// Arm has the result given to the receiver. If it is there already, done is true, r is
// it, and the receiver does not get it. Once.
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

// take removes it from the table; nil: another caller was first.
func take(id uintptr) *Pending {
	armed.Lock()
	defer armed.Unlock()
	p := armed.all[id]
	delete(armed.all, id)
	return p
}

// whileArmed runs f while p is in the table, and so its C part is there.
func (p *Pending) whileArmed(f func()) bool {
	armed.Lock()
	defer armed.Unlock()
	_, is := armed.all[p.id]
	if is {
		f()
	}
	return is
}

// Block blocks the calling thread until the future is done or ctx has ended. It waits
// in C, as C++ does on a condition variable: whoever completes the future then wakes
// this thread and need not enter Go, and Go's scheduler need not find a thread for this
// goroutine. True: r is the result, and the receiver does not get it. False: wait for
// the receiver. One goroutine at a time, which holds nothing of Python.
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

// Abandon is for a result that nobody will read. True: the receiver will not be called,
// and the invocation's objects may be closed. False: it is being called, or has been.
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

package cbridge

// #include "shim.h"
import "C"

import (
	"context"
	_ "embed"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"unsafe"
)

//go:embed signals.py
var signalsSource string

// relay tells Python of the signals that its code has handlers for. The kernel's
// handlers stay Go's: os/signal delivers to each who asked, Go's code and Python's.
type relay struct {
	in     *Interpreter
	module *Object // signals.py
	settle *Object // its function

	mu    sync.Mutex // not held while Python is waited for
	told  map[int]chan os.Signal
	ended bool
}

// installSignals, on Python's main thread, has Python's ways to take signals leave
// Go's handlers in place.
func (in *Interpreter) installSignals() error {
	module, err := in.own("_pyhook_signals", signalsSource)
	if err != nil {
		return err
	}
	r := &relay{in: in, module: module, told: map[int]chan os.Signal{}}
	in.relay = r
	if r.settle, err = module.Attr("settle"); err != nil {
		return err
	}
	err = module.With("deliver", func(deliver *Object) error {
		return Attached(func() { C.pyh_deliver_by(deliver.ptr) })
	})
	if err != nil {
		return err
	}
	guard, err := build(func() unsafe.Pointer { return unsafe.Pointer(C.pyh_guard()) })
	if err != nil {
		return err
	}
	defer guard.Close()
	releases, err := build(func() unsafe.Pointer { return unsafe.Pointer(C.pyh_releases_faults()) })
	if err != nil {
		return err
	}
	defer releases.Close()
	tell, err := NewFunc("pyhook_relay", r.set)
	if err != nil {
		return err
	}
	defer tell.Close()
	_, err = module.CallValue("install", guard, releases, tell)
	return err
}

// set is called by Python with a signal's number and whether Python wants to hear
// of it.
func (r *relay) set(args []*Object) (any, error) {
	n, err := As[int64](args[0])
	if err != nil {
		return nil, err
	}
	on, err := As[bool](args[1])
	if err != nil {
		return nil, err
	}
	number := int(n)
	r.mu.Lock()
	defer r.mu.Unlock()
	told := r.told[number]
	switch {
	case on && told == nil && !r.ended:
		told = make(chan os.Signal, 16)
		r.told[number] = told
		signal.Notify(told, syscall.Signal(number))
		go r.tell(number, told)
	case !on && told != nil:
		delete(r.told, number)
		signal.Stop(told)
		close(told) // after Stop nobody sends
	}
	return nil, nil
}

// tell has Python's handler run for each signal: in the midst of what Python's main
// thread does, as ever, or by itself if that does nothing.
func (r *relay) tell(number int, told <-chan os.Signal) {
	for range told {
		C.pyh_trip(C.int(number))
		_ = r.in.RunOnMain(context.Background(), func() {
			if o, err := r.settle.Invoke(nil, nil); err == nil {
				o.Close()
			}
		})
	}
}

// stop ends the telling. Python's lock may be held for ever: it is not waited for.
func (r *relay) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	for number, told := range r.told {
		delete(r.told, number)
		signal.Stop(told)
		close(told)
	}
}

// KeepFaults gives the signals SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT back to
// whoever had them at Start, Go as a rule, if a library of Python's has taken them: a
// nil pointer in Go then is a panic again, and not the end of the process. It costs
// half a microsecond. What Python code itself does with them (signal.signal,
// faulthandler.enable) never takes them.
func KeepFaults() { C.pyh_keep_faults() }

// ReleaseFaults lets Python have those signals from now on: for a process whose faults
// faulthandler shall tell, and where nothing counts on Go's panics.
func ReleaseFaults() { C.pyh_release_faults() }

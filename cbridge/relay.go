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

// relay passes signals on to Python's handlers. The kernel's handlers stay Go's, and os/signal
// delivers to Go's code and to Python's.
type relay struct {
	in          *Interpreter
	module      *Object // signals.py
	runHandlers *Object // its function

	mu       sync.Mutex             // not held while Python is waited for
	channels map[int]chan os.Signal // of the signals that Python has handlers for
	ended    bool
}

// installSignals makes signal.signal and faulthandler leave Go's handlers in place. It runs on
// Python's main thread.
func (in *Interpreter) installSignals() error {
	module, err := in.Module("_pyhook_signals", signalsSource)
	if err != nil {
		return err
	}
	r := &relay{in: in, module: module, channels: map[int]chan os.Signal{}}
	in.relay = r
	if r.runHandlers, err = module.Attr("run_handlers"); err != nil {
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
	set, err := NewFunc("pyhook_relay", r.set)
	if err != nil {
		return err
	}
	defer set.Close()
	_, err = module.CallValue("install", guard, releases, set)
	return err
}

// set starts or ends passing a signal on: Python calls it with the number and a bool.
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
	received := r.channels[number]
	switch {
	case on && received == nil && !r.ended:
		received = make(chan os.Signal, 16)
		r.channels[number] = received
		signal.Notify(received, syscall.Signal(number))
		go r.notify(number, received)
	case !on && received != nil:
		r.dropLocked(number, received)
	}
	return nil, nil
}

// notify has Python run its handler for each signal: amid what Python's main thread does, or in a
// call of its own if that thread is idle.
func (r *relay) notify(number int, received <-chan os.Signal) {
	for range received {
		C.pyh_trip(C.int(number))
		_ = r.in.RunOnMain(context.Background(), func() {
			if o, err := r.runHandlers.Invoke(nil, nil); err == nil {
				o.Close()
			}
		})
	}
}

// stop passes no more signals on. It does not wait for the GIL, which may be held for ever.
func (r *relay) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	for number, received := range r.channels {
		r.dropLocked(number, received)
	}
}

func (r *relay) dropLocked(number int, received chan os.Signal) {
	delete(r.channels, number)
	signal.Stop(received)
	close(received) // after Stop nobody sends
}

// KeepFaults gives SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT back to whoever had them at Start,
// as a rule Go, if a library of C has taken them: a nil pointer in Go is then a panic again, and
// does not end the process. It costs a microsecond. Python code (signal.signal,
// faulthandler.enable) never takes them.
func KeepFaults() { C.pyh_keep_faults() }

// ReleaseFaults lets Python have those signals from now on, for a process whose faults faulthandler
// shall print and whose Go code does not rely on panics.
func ReleaseFaults() { C.pyh_release_faults() }

package cbridge

// #include <stdlib.h>
// #include "heap.h"
// #include "shim.h"
import "C"

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

//go:embed bootstrap.py
var bootstrapSource string

var (
	// ErrRunning: the process has its interpreter already. CPython with torch
	// cannot be had twice in one process, nor started again after Close.
	ErrRunning = errors.New("python is already running in this process: one interpreter a process; share it")
	// ErrNotRunning: Start was not called, or did not succeed.
	ErrNotRunning = errors.New("python is not running: call Start first")
	// ErrClosed: the interpreter was closed.
	ErrClosed = errors.New("python was closed")
)

const (
	stateNone int32 = iota
	stateStarting
	stateRunning
	stateClosed
)

var state atomic.Int32

func running() error {
	switch state.Load() {
	case stateRunning:
		return nil
	case stateClosed:
		return ErrClosed
	default:
		return ErrNotRunning
	}
}

// Config chooses the interpreter. The zero value finds one as Discover does.
type Config struct {
	Python  string   // the interpreter's path or name; empty: see Discover
	Library string   // libpython's path; empty: asked of the interpreter
	Modules []string // top-level modules that the interpreter must have
	Path    []string // put before sys.path, first one first
	// ExitWait is how long Close waits for Python's threads, executors and exit
	// functions: 30 seconds if it is 0, without an end if it is negative.
	ExitWait time.Duration
}

// Interpreter is the process's one Python.
type Interpreter struct {
	Python  Python
	Library string    // the libpython that was loaded
	Version string    // as the library says, "3.11.2 (main, ...)"
	Refused []Attempt // candidates passed over on the way

	main      *mainQueue    // runs on Python's main thread
	over      chan struct{} // closed when nothing more runs there
	exitWait  time.Duration
	bytecode  bytecode
	bootstrap *Object
	ending    *Object // ending.py
	relay     *relay
	describe  *Object
	striking  striking
	closeOnce sync.Once
	closeErr  error
}

// Start chooses an interpreter, loads its library and starts it on an OS
// thread of its own, which Python takes for its main thread. It installs no
// signal handlers of Python's. From then on a write to a closed pipe is an error
// (EPIPE) on every thread and file, stdout too, and does not end the process; an
// os/signal.Reset of SIGPIPE undoes that. A second Start is ErrRunning; a failed
// one may be tried again. The error for a missing interpreter or library is a *DiscoveryError.
func Start(ctx context.Context, cfg Config) (*Interpreter, error) {
	if !state.CompareAndSwap(stateNone, stateStarting) {
		return nil, ErrRunning
	}
	in, err := start(ctx, cfg)
	if err != nil {
		state.Store(stateNone)
		return nil, err
	}
	return in, nil
}

func start(ctx context.Context, cfg Config) (*Interpreter, error) {
	python, refused, err := Discover(ctx, cfg.Python, cfg.Modules...)
	if err != nil {
		return nil, err
	}
	in := &Interpreter{Python: *python, Refused: refused, main: newMainQueue(), over: make(chan struct{}), exitWait: cfg.ExitWait}
	keepAlive()
	if err := in.load(cfg.Library); err != nil {
		return nil, err
	}
	started := make(chan error)
	go in.mainThread(started)
	if err := <-started; err != nil {
		return nil, err
	}
	state.Store(stateRunning)
	// On the main thread: before 3.13 threading takes the thread that first
	// imports it for the main one.
	if runErr := in.RunOnMain(ctx, func() { err = in.boot(cfg.Path) }); runErr != nil || err != nil {
		return nil, fmt.Errorf("starting Python: %w", errors.Join(runErr, err))
	}
	return in, nil
}

func (in *Interpreter) load(library string) error {
	paths := in.Python.Libraries
	if library != "" {
		paths = []string{library}
	}
	var tried []Attempt
	for _, path := range paths {
		cpath, cversion := C.CString(path), C.CString(in.Python.Version)
		message := C.pyh_load(cpath, cversion)
		C.free(unsafe.Pointer(cpath))
		C.free(unsafe.Pointer(cversion))
		if message != nil {
			tried = append(tried, Attempt{path, C.GoString(message)})
			C.free(unsafe.Pointer(message))
			continue
		}
		in.Library = path
		in.Version = C.GoString(C.pyhVersion())
		return nil
	}
	return &DiscoveryError{
		Tried: append(in.Refused, append([]Attempt{{in.Python.Executable, errNoLibrary.Error()}}, tried...)...),
		Hint:  libraryHint(&in.Python),
	}
}

// mainThread initialises Python and then serves RunOnMain. It stays locked to
// its thread for ever: CPython hangs when another one finalises it.
func (in *Interpreter) mainThread(started chan<- error) {
	runtime.LockOSThread()
	C.pyh_grow_heap()
	executable := C.CString(in.Python.Executable)
	message := C.pyh_initialize(executable)
	C.free(unsafe.Pointer(executable))
	if message != nil {
		started <- fmt.Errorf("starting Python %s from %s: %s", in.Python.Version, in.Library, C.GoString(message))
		C.free(unsafe.Pointer(message))
		runtime.UnlockOSThread()
		return
	}
	started <- nil
	for range in.main.come {
		in.main.serve()
	}
}

func (in *Interpreter) boot(path []string) error {
	if err := in.bytecode.load(in); err != nil {
		return err
	}
	module, err := in.Module("_pyhook_bootstrap", bootstrapSource)
	if err != nil {
		return err
	}
	in.bootstrap = module
	if in.describe, err = module.Attr("describe"); err != nil {
		return err
	}
	describer.Store(in.describe)
	if err := in.striking.load(in); err != nil {
		return err
	}
	if in.ending, err = in.Module("_pyhook_ending", endingSource); err != nil {
		return err
	}
	if err := in.installSignals(); err != nil {
		return err
	}
	if len(path) == 0 {
		return nil
	}
	sys, err := in.Import("sys")
	if err != nil {
		return err
	}
	defer sys.Close()
	return sys.With("path", func(list *Object) error {
		for i := len(path) - 1; i >= 0; i-- {
			if _, err := list.CallValue("insert", 0, path[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// newModule registers a new module in sys.modules once fill has run its code.
func (in *Interpreter) newModule(name string, fill func(*Object) error) (*Object, error) {
	types, err := in.Import("types")
	if err != nil {
		return nil, err
	}
	defer types.Close()
	module, err := types.Call("ModuleType", name)
	if err != nil {
		return nil, err
	}
	if err := fill(module); err != nil {
		module.Close()
		return nil, err
	}
	sys, err := in.Import("sys")
	if err != nil {
		module.Close()
		return nil, err
	}
	defer sys.Close()
	err = sys.With("modules", func(modules *Object) error {
		_, err := modules.CallValue("__setitem__", name, module)
		return err
	})
	if err != nil {
		module.Close()
		return nil, err
	}
	return module, nil
}

// InstallPackage makes `import name` load the given sources (module name to
// text, "name" and "name.sub") before any installed copy. SaveBytecode keeps what they are
// compiled to.
func (in *Interpreter) InstallPackage(name string, sources map[string]string) error {
	if err := running(); err != nil {
		return err
	}
	codes := make(map[string][]byte, len(sources))
	for module, text := range sources {
		if code := in.bytecode.code(module, text); code != nil {
			codes[module] = code
		}
	}
	_, err := in.bootstrap.CallValue("install_package", name, sources, codes)
	return err
}

// Import imports a module. The caller owns the result.
func (in *Interpreter) Import(name string) (*Object, error) { return Import(name) }

// Import imports a module into the running interpreter, on the calling thread. The
// caller owns the result.
func Import(name string) (*Object, error) {
	if err := running(); err != nil {
		return nil, err
	}
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	var obj *Object
	var err error
	attached(func() { obj, err = own(C.pyhImport(cname)) })
	return obj, err
}

// Imported says whether a module is imported, or is being imported, already.
func Imported(name string) bool {
	sys, err := Import("sys")
	if err != nil {
		return false
	}
	defer sys.Close()
	there := false
	err = sys.With("modules", func(modules *Object) error {
		v, err := modules.CallValue("__contains__", name)
		there = v == true
		return err
	})
	return err == nil && there
}

// Close does what python does at its end: it runs threading's exit functions (which shut executors
// down), waits for non-daemon threads, runs the atexit functions and flushes open files. Then it
// drops the bridge's own references. It does not finalise the interpreter, which torch would not
// survive, so objects' finalisers do not run. It leaves behind what takes longer than
// Config.ExitWait; the error is then an *ExitError. Idempotent; later calls to Python return
// ErrClosed.
func (in *Interpreter) Close() error {
	in.closeOnce.Do(func() {
		if in.closeErr = running(); in.closeErr != nil {
			return
		}
		in.closeErr = in.end(in.exitWait)
		state.Store(stateClosed)
		in.striking.close()
		close(in.over)
		in.relay.stop()
		for _, o := range []*Object{in.relay.runHandlers, in.relay.module, in.describe, in.ending, in.bootstrap} {
			o.Close()
		}
	})
	return in.closeErr
}

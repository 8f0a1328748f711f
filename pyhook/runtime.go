package pyhook

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pyhook/cbridge"
	"pyhook/internal/ctxerr"
	pysource "pyhook/python"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

// Config chooses the interpreter. The zero value takes the first of
// PYHOOK_PYTHON, the Python of the torchrun that started this process,
// VIRTUAL_ENV, CONDA_PREFIX, python3 on PATH and /usr/bin/python3 that has torch.
type Config struct {
	Python  string   // the interpreter's path or name
	Library string   // libpython's path, where it cannot be found
	Path    []string // put before sys.path: where hooks' modules are
	Output  Output   // where what Python prints and logs goes
	// ExitWait is how long Close waits for what Python waits for at its end: threads,
	// executors, exit functions. 30 seconds if it is 0, without an end if it is negative.
	ExitWait time.Duration
}

// Object is a handle on a Python object: a state, a hook, a group.
type Object = cbridge.Object

// Runtime is the process's Python with torch. A process has one: share it.
type Runtime struct {
	interpreter *cbridge.Interpreter
	bridge      *Object // python/pyhook/_runtime/bridge.py
	torchAPI    *torchAPI
	output      *output
	torch       string
	rank        atomic.Int64 // of the default group; -1 before there is one
	size        atomic.Int64 // of the default group
	bound       atomic.Bool  // a reducer has Python's main thread for the calls of its hook
	backend     atomic.Value // string: of the first group that was made, the default one
	joining     atomic.Int32 // calls that wait for other ranks and were given up
	renewal     *renewal
	closed      atomic.Bool
	closeOnce   sync.Once
	closeErr    error
}

// Start finds an interpreter that has torch, starts it in this process and
// imports torch there. It takes a second or two, most of it torch's import. A second
// Start in a process returns ErrRunning; without an interpreter the error is a *DiscoveryError.
// The launcher's variables (RANK, MASTER_ADDR, ...) must be in the environment
// before: Python copies it as it starts.
func Start(ctx context.Context, cfg Config) (*Runtime, error) {
	in, err := cbridge.Start(ctx, cbridge.Config{Python: cfg.Python, Library: cfg.Library, Modules: []string{"torch"}, Path: cfg.Path, ExitWait: cfg.ExitWait})
	if err != nil {
		return nil, err
	}
	rt := &Runtime{interpreter: in}
	rt.renewal = newRenewal(rt)
	rt.rank.Store(int64(rankFromEnvironment()))
	if err := rt.boot(ctx, cfg.Output); err != nil {
		in.Close()
		rt.output.close()
		return nil, fmt.Errorf("starting pyhook on %s: %w", in.Python.Executable, err)
	}
	return rt, nil
}

func rankFromEnvironment() int {
	if rank, err := strconv.Atoi(os.Getenv("RANK")); err == nil {
		return rank
	}
	return -1
}

func (rt *Runtime) boot(ctx context.Context, output Output) error {
	sources := map[string]string{}
	err := fs.WalkDir(pysource.FS, "pyhook", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(pysource.FS, file)
		name := strings.TrimSuffix(strings.TrimSuffix(file, ".py"), "/__init__")
		sources[strings.ReplaceAll(name, "/", ".")] = string(text)
		return err
	})
	if err != nil {
		return err
	}
	if err := rt.interpreter.InstallPackage("pyhook", sources); err != nil {
		return err
	}
	if rt.output, err = output.redirect(rt.interpreter, sources["pyhook._runtime.output"], rt.Rank); err != nil {
		return err
	}
	// On Python's main thread: torch starts threads and two concurrent imports
	// of it fail.
	var importErr error
	err = rt.interpreter.RunOnMain(ctx, func() { rt.bridge, importErr = importUncollected("pyhook._runtime.bridge") })
	cbridge.KeepFaults()
	cbridge.SkipDestructors()
	if err != nil || importErr != nil {
		return cmp.Or(err, importErr)
	}
	if rt.torchAPI, err = newTorchAPI(rt.bridge); err != nil {
		return err
	}
	// What tensorconv looks up at its first use belongs to the start, not to
	// the first hook call.
	if err := warmUp(); err != nil {
		return err
	}
	torch, err := cbridge.Import("torch")
	if err != nil {
		return err
	}
	defer torch.Close()
	err = torch.With("__version__", func(version *Object) (err error) {
		rt.torch, err = version.Str()
		return err
	})
	if err != nil {
		return err
	}
	return rt.interpreter.SaveBytecode()
}

// importUncollected imports a module with Python's garbage collector off, if it
// was on: torch's import makes so many objects that looking through them is a
// tenth of its time, and next to none of them is garbage. Afterwards they are in
// the oldest generation, where collections would have put them: else the first
// collection looked through all of them after all.
func importUncollected(name string) (*Object, error) {
	gc, err := cbridge.Import("gc")
	if err != nil {
		return nil, err
	}
	defer gc.Close()
	enabled, err := gc.CallValue("isenabled")
	if err != nil {
		return nil, err
	}
	if enabled == true {
		if _, err := gc.CallValue("disable"); err != nil {
			return nil, err
		}
		defer gc.CallValue("enable")
		frozen, err := gc.CallValue("get_freeze_count")
		if err != nil {
			return nil, err
		}
		if frozen == int64(0) { // what the user has frozen stays so
			defer gc.CallValue("unfreeze")
			defer gc.CallValue("freeze")
		}
	}
	return cbridge.Import(name)
}

func warmUp() error {
	t, err := tensor.New(tensor.Float32, 1)
	if err != nil {
		return err
	}
	defer t.Close()
	o, err := tensorconv.ToPython(t)
	if err != nil {
		return err
	}
	o.Close()
	return nil
}

// Info says what was chosen and why.
type Info struct {
	Python     string // the interpreter's path
	PythonFrom string // what chose it: "PYHOOK_PYTHON", "python3 on PATH", ...
	Version    string // "3.11.2"
	Library    string // the libpython that was loaded
	Prefix     string // sys.prefix: the virtual environment, if it is one
	Torch      string // "2.14.1"
	Refused    []cbridge.Attempt
}

// Info says which interpreter, library and torch are running, and why.
func (rt *Runtime) Info() Info {
	p := rt.interpreter.Python
	return Info{Python: p.Executable, PythonFrom: p.Source, Version: p.Version, Library: rt.interpreter.Library,
		Prefix: p.Prefix, Torch: rt.torch, Refused: rt.interpreter.Refused}
}

// Environment describes torch: versions, devices, backends, known traps. environment() of
// python/pyhook/_runtime/environment.py lists the keys.
func (rt *Runtime) Environment() (map[string]any, error) {
	value, err := rt.bridge.CallValue("environment")
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	table, _ := value.(map[any]any)
	for k, v := range table {
		if name, ok := k.(string); ok {
			out[name] = v
		}
	}
	return out, nil
}

// Import imports a Python module, on Python's main thread, for what this package has no
// function for. It returns a module that is imported already without waiting for that
// thread. If ctx ends during the import, the module's code is interrupted as a hook's call is
// (RunHook), and the error is c10d.ErrInterrupted and the context's. The caller closes the
// result.
func (rt *Runtime) Import(ctx context.Context, module string) (o *Object, err error) {
	if ctx.Err() != nil {
		return nil, ctxerr.While(ctx, notCalled)
	}
	if cbridge.Imported(module) {
		return cbridge.Import(module)
	}
	err = rt.interruptibleOnMain(ctx, func() (err error) {
		o, err = cbridge.Import(module)
		return err
	})
	return o, err
}

// Close destroys the process groups, does what python does at its end, and drops what
// the runtime holds. Futures that are pending then fail with c10d.ErrClosed. Python cannot be
// started again in this process. Idempotent.
//
// Python's end is: executors are shut down, threads that are no daemons are waited for,
// atexit functions run, and open files are written out. What is not done within
// Config.ExitWait is left behind, and the error is an *ExitError that names it.
//
// While an InitProcessGroup that was given up still waits for other ranks, Close
// leaves Python as it is and returns an error: torch 1.13 waits with the GIL held.
func (rt *Runtime) Close() error {
	rt.closeOnce.Do(func() {
		rt.closed.Store(true)
		if rt.closeErr = rt.waitAbandoned(); rt.closeErr != nil {
			return
		}
		_, err := rt.bridge.CallValue("destroy", true)
		rt.abandonAll()
		rt.renewal.object().Close()
		rt.torchAPI.close()
		rt.bridge.Close()
		rt.closeErr = cmp.Or(err, rt.interpreter.Close())
		rt.output.close()
	})
	return rt.closeErr
}

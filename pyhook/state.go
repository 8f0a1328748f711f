package pyhook

import (
	"context"
	"fmt"
	"io"
	"os"

	"pyhook/c10d"
	"pyhook/internal/wholefile"
)

const stateModule = "pyhook._state.file"

// StateOption changes how a state is saved or loaded.
type StateOption func(*stateOptions)

type stateOptions struct{ trusted, anyRank, anyBuckets, sameRun bool }

// TrustState lets SaveState pickle what it could not write otherwise, and
// LoadState read that. Loading a pickle can run any program: trust only files
// that you wrote yourself. It is needed on both sides.
func TrustState() StateOption { return func(o *stateOptions) { o.trusted = true } }

// AnyRank lets LoadState take another rank's state, or that of a group of
// another size. The run is then not quite the one that was stopped.
func AnyRank() StateOption { return func(o *stateOptions) { o.anyRank = true } }

// AnyBuckets lets the hook be called with other buckets than its state was saved with. Only for
// a state that does not depend on them.
func AnyBuckets() StateOption { return func(o *stateOptions) { o.anyBuckets = true } }

// SameRun has SaveState make a copy for this run, to go back to after a failure: loaded, it may be
// called with the buckets that this hook may be called with, which a Reducer may have made anew since.
func SameRun() StateOption { return func(o *stateOptions) { o.sameRun = true } }

func stateOptionsOf(opts []StateOption) stateOptions {
	var o stateOptions
	for _, option := range opts {
		option(&o)
	}
	return o
}

// SaveState writes the hook's state so that LoadState, in this process or
// another, makes a hook that goes on bit by bit as this one would. What it
// writes has a version and a digest, and no code.
//
// Every rank saves its own state: PowerSGD's error feedback differs. Call it
// between steps, when the futures of all buckets are done. None and process
// groups save as an empty state. A state's own state_dict and __getstate__ are
// used where it has them; what a callable object, a bound method or a partial
// holds is saved too. Global random generators, a module's variables and what
// closures hold are not.
//
// The error is a *c10d.Error: c10d.ErrStateUnsafe names what cannot be saved, and
// nothing is written. The end of ctx interrupts the state's own Python code: the error is then
// c10d.ErrInterrupted and the context's.
func (h *PythonCommHook) SaveState(ctx context.Context, w io.Writer, opts ...StateOption) error {
	data, err := h.stateBytes(ctx, stateOptionsOf(opts))
	if err != nil {
		return h.stateError(err)
	}
	if _, err := w.Write(data); err != nil {
		return h.stateError(fmt.Errorf("writing: %w", err))
	}
	return nil
}

func (h *PythonCommHook) stateBytes(ctx context.Context, o stateOptions) ([]byte, error) {
	buckets := h.buckets.forms
	if o.sameRun {
		buckets = h.buckets.required
	}
	value, err := h.callState(ctx, "save_hook", h.hook, h.State(), o.trusted, buckets())
	if err != nil {
		return nil, err
	}
	data, ok := value.([]byte)
	if !ok {
		return nil, fmt.Errorf("save_hook returned a %T", value)
	}
	return data, nil
}

// LoadState restores what SaveState wrote into this hook, which must have been
// made as the saved one was; it keeps its process groups. What the file says
// wins, hyper-parameters too. It reads r to its end. Call it between steps.
//
// A state that holds tensors belongs to the buckets of the run that saved it: a call with others
// is c10d.ErrStateBuckets, unless AnyBuckets is given. What Python's pyhook.save_state wrote does not
// say which those are: give DDP's to ddp.Options.Buckets, with LayoutFixed. There buckets that change
// after the first step, as those of LayoutRebuilt, are ErrStateBuckets.
//
// No file can make this program run anything, unless TrustState is given.
//
// The error is a *c10d.Error: c10d.ErrStateCorrupt, c10d.ErrStateClass, ... The state is
// then as it was, unless its own __setstate__ or load_state_dict failed or was interrupted: the
// end of ctx interrupts Python code of the state, as in SaveState.
func (h *PythonCommHook) LoadState(ctx context.Context, r io.Reader, opts ...StateOption) error {
	o := stateOptionsOf(opts)
	data, err := io.ReadAll(r)
	if err != nil {
		return h.stateError(fmt.Errorf("reading: %w", err))
	}
	buckets, err := h.callState(ctx, "restore_hook", data, h.hook, h.State(), o.trusted, o.anyRank)
	if err != nil {
		return h.stateError(err)
	}
	if o.anyBuckets {
		buckets = nil
	}
	if err := h.buckets.expect(buckets); err != nil {
		return h.stateError(err)
	}
	return h.snapshotAnew(ctx)
}

// callState calls a function of the Python module that saves and restores states.
func (h *PythonCommHook) callState(ctx context.Context, function string, args ...any) (value any, err error) {
	err = h.rt.interruptibleOnMain(ctx, func() (err error) {
		value, err = moduleValue(stateModule, function, args...)
		return err
	})
	return value, err
}

// SaveStateFile is SaveState into a file, which is replaced as a whole or, on
// an error, left as it was. Its folder must be there.
func (h *PythonCommHook) SaveStateFile(ctx context.Context, path string, opts ...StateOption) error {
	data, err := h.stateBytes(ctx, stateOptionsOf(opts))
	if err != nil {
		return h.stateError(err)
	}
	if err := wholefile.Write(path, wholefile.Private, func(w io.Writer) error { _, err := w.Write(data); return err }); err != nil {
		return h.stateError(fmt.Errorf("saving %s: %w", path, err))
	}
	return nil
}

// LoadStateFile is LoadState from a file.
func (h *PythonCommHook) LoadStateFile(ctx context.Context, path string, opts ...StateOption) error {
	file, err := os.Open(path)
	if err != nil {
		return h.stateError(err)
	}
	defer file.Close()
	return h.LoadState(ctx, file, opts...)
}

func (h *PythonCommHook) stateError(err error) error {
	e := hookError(h.name, h.rt.Rank(), -1, c10d.ErrState, err)
	if e.Hint == "" {
		e.Hint = "each rank loads what it saved itself, into a hook that was made as the saved one was"
	}
	return e
}

package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// State says how a hook's state is made in the worker: pyhook.Runtime.NewState. A
// parameter process_group is filled with the worker's group.
type State = pyhook.StateSpec

// HookConfig is what a hook is made with, also after a Restart.
type HookConfig struct {
	// State is the hook's first argument: a State, the worker's *Group, or a
	// Go value of booleans, numbers, text, bytes, []any and map[string]any. nil is None.
	State any
	// Futures: see pyhook.HookConfig.
	Futures pyhook.FutureForms
	// SnapshotEvery so many steps the state is saved, when the step's last bucket is
	// reduced and while the trainer goes on, to be restored by Restart. 0: never;
	// Restart then begins with a new state.
	SnapshotEvery int
	// Trusted: see pyhook.TrustState. What is restored is what this program saved.
	Trusted bool
	// Parameters of the model, in the order of ddp.NewReducer's, are given to states
	// and hooks that take parameters, by name, shape, dtype, attributes and, if they
	// have Data, with their values: pyhook.HookConfig.Parameters. They must stay open
	// as long as the hook.
	Parameters []*c10d.Parameter
}

// Hook is a Python hook in the worker: a c10d.CommHook for package ddp, which runs
// it as it runs a pyhook.PythonCommHook.
type Hook struct {
	worker *Worker
	id     uint64
	spec   string
	loaded atomic.Pointer[loaded] // set at each load; nil: before the first
	state  any                    // as it travels
	cfg    HookConfig

	mu        sync.Mutex
	closed    bool
	completed int64 // steps of which every bucket was reduced
	reduced   int   // buckets of the step that is under way
	underway  int   // calls
	// onCollective is called for each; may be nil. See TraceCollectives.
	onCollective func(c10d.Collective)
	snapshots    []snapshot // the last two
	kept         *snapshot  // Snapshot's; nil: none
	saving       *saving    // of the last snapshot; nil: none was made
}

// loaded is what the worker says of a hook.
type loaded struct {
	name        string
	independent bool
	order       error
	hasState    bool
}

// NewHook loads a hook in the worker, by a spec as of pyhook.Runtime.LoadHook. The
// error is a *c10d.Error, or an *Error if the worker failed.
func (w *Worker) NewHook(ctx context.Context, spec string, cfg HookConfig) (*Hook, error) {
	h := &Hook{worker: w, id: w.newID(), spec: spec, cfg: cfg}
	switch state := cfg.State.(type) {
	case *State:
		if state != nil {
			h.state = *state
		}
	case *Group:
		if state != nil {
			h.state = groupState{true}
		}
	default:
		h.state = state
	}
	if h.state == nil && cfg.State != nil {
		return nil, h.fail(nil, c10d.ErrBadArguments, fmt.Errorf("HookConfig.State is a nil %T", cfg.State))
	}
	if err := canBeSent(h.state); err != nil {
		return nil, h.fail(nil, c10d.ErrBadArguments, fmt.Errorf("HookConfig.State: %w", err))
	}
	p := w.process()
	if err := h.load(ctx, p); err != nil {
		return nil, err
	}
	h.snapshots = []snapshot{{}}
	if cfg.SnapshotEvery > 0 { // also so that a state that cannot be saved fails here
		data, err := h.save(ctx, p, true)
		if err != nil {
			h.Close()
			return nil, err
		}
		h.snapshots[0].data = data
	}
	w.mu.Lock()
	w.hooks = append(w.hooks, h)
	w.mu.Unlock()
	return h, nil
}

func (h *Hook) load(ctx context.Context, p *process) error {
	params, err := h.worker.parameterIDs(ctx, p, h.cfg.Parameters)
	if err != nil {
		return h.fail(nil, c10d.ErrLoad, err)
	}
	hook := &hookMessage{ID: h.id, Spec: h.spec, State: h.state, Params: params, Futures: h.cfg.Futures}
	m, err := p.ask(ctx, "loading hook "+h.spec, 0, &message{Kind: kindHook, Hook: hook}, nil)
	if err != nil {
		return h.fail(nil, c10d.ErrLoad, err)
	}
	if m.Hook == nil {
		return h.fail(nil, c10d.ErrLoad, errors.New("the worker answered without the hook"))
	}
	h.loaded.Store(&loaded{m.Hook.Name, m.Hook.Independent, m.Hook.Order.local(), m.Hook.HasState})
	return nil
}

// Name returns the hook's qualified Python name.
func (h *Hook) Name() string {
	if l := h.loaded.Load(); l != nil {
		return l.name
	}
	return h.spec
}

// Description implements c10d.DescribedHook: see pyhook.PythonCommHook.
func (h *Hook) Description() string { return pyhook.Describe(h.Name(), h.cfg.State) }

// Independent: see c10d.IndependentHook.
func (h *Hook) Independent() (bool, error) {
	l := h.loaded.Load()
	if l == nil {
		return false, nil
	}
	return l.independent, l.order
}

// Close drops the hook. Idempotent.
func (h *Hook) Close() {
	h.mu.Lock()
	closed := h.closed
	h.closed = true
	h.mu.Unlock()
	if closed {
		return
	}
	w := h.worker
	w.mu.Lock()
	for i, other := range w.hooks {
		if other == h {
			w.hooks = append(w.hooks[:i:i], w.hooks[i+1:]...)
			break
		}
	}
	p := w.proc
	w.mu.Unlock()
	go func() { _ = p.wire.Send(&message{Kind: kindCloseHook, Object: h.id}, nil) }()
}

// fail makes err an error of the hook, unless it says itself whose it is.
func (h *Hook) fail(b *c10d.GradBucket, code c10d.Code, err error) error {
	bucket := -1
	if b != nil {
		bucket = b.Index()
	}
	hint := "the cause is in the text; a lone rank may call the hook again; several do the step again by ddp.Retry, or call Reducer.Recover (without a Reducer: Restart) first"
	var mine *Error
	var hook *c10d.Error
	switch {
	case errors.As(err, &mine):
		return mine.at(h.Name(), bucket)
	case errors.As(err, &hook):
		return err
	case errors.Is(err, c10d.ErrClosed) || errors.Is(err, tensor.ErrClosed):
		code, hint = c10d.ErrClosed, "close it after the last future of its calls is done"
	default:
		if ended := c10d.ContextCode(err); ended != "" {
			code = ended
		}
	}
	return &c10d.Error{
		Op: "hook " + h.Name(), Rank: h.worker.cfg.rank, Bucket: bucket, Code: code, Detail: err.Error(), Hint: hint, Err: err,
	}
}

// RunHook calls hook(state, bucket) in the worker, and returns when the hook has:
// see c10d.CommHook. A buffer that NewBuffer made, or one on a device, is used where it is; any other is
// copied there and its result back. If ctx ends before the call is done, the worker
// is ended (but see Config.KeepOnCancel).
//
// The error, also the future's, is a *c10d.Error where the hook failed and the
// worker goes on, or an *Error where the worker did not.
func (h *Hook) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	future, _, err := h.run(ctx, b, false)
	return future, err
}

// RunHookChained: see c10d.ChainedHook.
func (h *Hook) RunHookChained(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], c10d.Chain, error) {
	future, c, err := h.run(ctx, b, true)
	if err != nil {
		return nil, nil, err
	}
	return future, c, nil
}

// ParseHookResult: see c10d.CommHook. The bucket's own buffer comes as its Alias.
func (h *Hook) ParseHookResult(b *c10d.GradBucket, r c10d.Result) (*tensor.Tensor, error) {
	result, ok := r.(c10d.TensorResult)
	if !ok || result.Tensor == nil {
		return nil, h.fail(b, c10d.ErrBadResult, errors.New("not the result of a future of a worker's hook"))
	}
	t, err := result.Tensor.Alias()
	if err != nil {
		return nil, h.fail(b, c10d.ErrBadResult, err)
	}
	return t, nil
}

// NewBuffer: see Worker.NewBuffer.
func (h *Hook) NewBuffer(dtype tensor.DType, n int64) (*tensor.Tensor, error) {
	return h.worker.NewBuffer(dtype, n)
}

// begin counts the call in, after the snapshot of the step before.
func (h *Hook) begin(ctx context.Context, b *c10d.GradBucket) error {
	if err := h.saved(ctx); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fmt.Errorf("the hook: %w", c10d.ErrClosed)
	}
	if b.Index() == 0 {
		h.reduced = 0
	}
	return nil
}

var (
	_ c10d.IndependentHook = (*Hook)(nil)
	_ c10d.RestorableHook  = (*Hook)(nil)
	_ c10d.BufferAllocator = (*Hook)(nil)
)

package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/worker/internal/ipc"
)

var errNoRank = errors.New("Config.Size is not above 0, and RANK or WORLD_SIZE is not in the environment")

// Worker runs this rank's hooks in a child process that can be restarted. Any goroutine may use it.
type Worker struct {
	cfg Config

	restarting sync.Mutex // one Restart or Close at a time

	mu       sync.Mutex
	proc     *process
	group    *Group
	hooks    []*Hook // in the order of their making
	regions  []*ipc.Region
	attached map[attachment]struct{} // to buckets and parameters
	lastID   uint64                  // of regions, buckets, parameters and hooks
	restarts int
	closed   bool

	runtime     atomic.Pointer[pyhook.Runtime] // UseRuntime's; nil: none
	generation  atomic.Int64                   // Restarts that succeeded
	paramCloses atomic.Int64                   // parameters closed so far: buckets may refer to them in the process
}

// Start starts a worker: this program again (see Main), with Python, torch and a
// process group. It waits for the workers of all ranks, or for the end of ctx or of
// Config.StartTimeout. The error is an *Error that is ErrStart, or ErrNotArmed.
func Start(ctx context.Context, cfg Config) (*Worker, error) {
	if !armed.Load() {
		return nil, ErrNotArmed
	}
	w := &Worker{cfg: cfg, attached: map[attachment]struct{}{}}
	w.cfg.setDefaults()
	p, err := w.launch(ctx)
	if err != nil {
		return nil, err
	}
	w.proc = p
	w.cfg.rank = p.started.Rank
	w.group = &Group{worker: w, rank: p.started.Rank, size: p.started.Size, backend: p.started.Backend}
	return w, nil
}

// launch starts a process and has it join.
func (w *Worker) launch(ctx context.Context) (*process, error) {
	fail := func(err error) (*process, error) {
		e := &Error{Rank: w.cfg.rank, Bucket: -1, Code: ErrStart, ExitCode: -1, Err: err, Detail: err.Error()}
		var ended *Error
		if errors.As(err, &ended) {
			e.Detail = fmt.Sprintf("%v: %s", ended.Code, ended.Detail)
			e.ExitCode, e.Signal, e.Stack, e.Stderr = ended.ExitCode, ended.Signal, ended.Stack, ended.Stderr
		}
		return nil, e
	}
	rank, size, err := w.cfg.rankAndSize()
	if err != nil {
		return fail(err)
	}
	w.cfg.title = fmt.Sprintf("%s: pyhook worker, rank %d of %d", filepath.Base(os.Args[0]), rank, size)
	p, err := startProcess(&w.cfg, w.trace)
	if err != nil {
		return fail(err)
	}
	answer, err := p.ask(ctx, "the start", w.cfg.StartTimeout, &message{Kind: kindStart, Start: &startMessage{
		Python: w.cfg.Python, Library: w.cfg.Library, Path: w.cfg.Path, Backend: w.cfg.Backend, InitMethod: w.cfg.InitMethod,
		Rank: rank, Size: size, Timeout: w.cfg.groupTimeout(),
	}}, nil)
	if err != nil {
		p.kill(&Error{Code: ErrStopped}, false)
		return fail(err)
	}
	if s := answer.Started; s == nil || s.Rank != rank || s.Size != size {
		p.kill(&Error{Code: ErrProtocol}, false)
		return fail(fmt.Errorf("rank %d of %d was asked to start and answered %+v", rank, size, s))
	}
	p.started = answer.Started
	p.info.Store(int64(answer.Started.Thread))
	return p, nil
}

// groupTimeout is the backend's. It is longer than the calls', so that the trainer is the first to
// find a late call, and names it.
func (c *Config) groupTimeout() time.Duration { return 2*c.Timeout + time.Minute }

// Info says which Python and torch the worker runs.
func (w *Worker) Info() pyhook.Info { return w.process().started.Info }

// Pid returns the id of the worker's process, which may have ended.
func (w *Worker) Pid() int { return w.process().cmd.Process.Pid }

// Err returns why the worker's process has ended, an *Error, or nil.
func (w *Worker) Err() error {
	p := w.process()
	select {
	case <-p.dead:
		return p.failure
	default:
		return nil
	}
}

// Group returns the process group of all workers. Its collectives run there.
func (w *Worker) Group() *Group { return w.group }

func (w *Worker) process() *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.proc
}

// Close ends the process, and frees what the Worker keeps of buckets and parameters. Tensors of
// NewBuffer stay valid until they are closed. Calls that are under way fail. Idempotent.
func (w *Worker) Close() {
	w.restarting.Lock()
	defer w.restarting.Unlock()
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return
	}
	w.closed = true
	p, attached := w.proc, w.attached
	w.attached = nil
	w.mu.Unlock()
	p.stop()
	for a := range attached {
		a.free()
	}
}

// NewBuffer returns a flat tensor of n zeros that the worker sees without copying.
// The caller closes it; it outlives Restart and Close. c10d.BufferAllocator.
func (w *Worker) NewBuffer(dtype tensor.DType, n int64) (*tensor.Tensor, error) {
	return w.newTensor(dtype, []int64{n}, tensor.Capacity(n))
}

// newTensor makes shared memory; capacity counts for flat tensors.
func (w *Worker) newTensor(dtype tensor.DType, shape []int64, capacity int64) (*tensor.Tensor, error) {
	n := int64(1)
	for _, size := range shape {
		n *= size
	}
	if n <= 0 || dtype.Size() == 0 {
		return tensor.New(dtype, shape...) // nothing to share, or the error
	}
	w.mu.Lock()
	w.lastID++
	id := w.lastID
	w.mu.Unlock()
	r, err := ipc.NewRegion(id, int(max(capacity, n)*int64(dtype.Size())))
	if err != nil {
		return nil, fmt.Errorf("worker of rank %d: %w", w.cfg.rank, err)
	}
	defer r.Close()
	t, err := r.Tensor(&ipc.Location{DType: dtype, Shape: shape, Capacity: capacity})
	if err != nil {
		return nil, err
	}
	r.OnRelease(func() { w.forget(r) })
	w.mu.Lock()
	w.regions = append(w.regions, r)
	w.mu.Unlock()
	return t, nil
}

// forget is called when nothing on this side uses a region any more.
func (w *Worker) forget(r *ipc.Region) {
	w.mu.Lock()
	w.regions = slices.DeleteFunc(w.regions, func(o *ipc.Region) bool { return o == r })
	p := w.proc
	w.mu.Unlock()
	p.mu.Lock()
	known := p.mapped[r.ID]
	delete(p.mapped, r.ID)
	p.mu.Unlock()
	if known {
		// On a goroutine of its own, as a worker that hangs does not read.
		go func() { _ = p.wire.Send(&message{Kind: kindUnmap, Object: r.ID}, nil) }()
	}
}

// share returns where t lies in memory that p has mapped, or on a device, or nil if it is not
// shared. t stays open meanwhile.
func (w *Worker) share(ctx context.Context, p *process, t *tensor.Tensor) (*ipc.Location, error) {
	if !t.Device().IsCPU() {
		return w.shareOnDevice(ctx, t)
	}
	if t.Bytes() == 0 {
		return &ipc.Location{DType: t.DType(), Shape: t.Shape()}, nil
	}
	var found *ipc.Region
	var location *ipc.Location
	w.mu.Lock()
	for _, r := range w.regions {
		if location = r.Find(t); location != nil {
			found = r
			break
		}
	}
	w.mu.Unlock()
	if found == nil || !t.IsContiguous() {
		return nil, nil
	}
	// The whole of what NewBuffer made, and not a view at its start.
	if capacity := tensor.Capacity(t.Len()); len(location.Shape) == 1 && capacity*int64(t.DType().Size()) == int64(found.Len()) {
		location.Capacity = capacity
	}
	p.mu.Lock()
	known := p.mapped[found.ID]
	p.mu.Unlock()
	if known {
		return location, nil
	}
	m := &message{Kind: kindMap, Region: &regionMessage{ID: found.ID, Bytes: found.Len()}}
	if _, err := p.ask(ctx, "sharing memory", 0, m, found.File); err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.mapped[found.ID] = true
	p.mu.Unlock()
	return location, nil
}

func (w *Worker) newID() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lastID++
	return w.lastID
}

var _ c10d.BufferAllocator = (*Worker)(nil)

package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"pyhook/c10d"
	"pyhook/launch"
	"pyhook/pyhook"
	"pyhook/worker"
)

// Job is this process's part in a job: its rank, its process group, and what hooks run in. Any
// goroutine may use it.
type Job struct {
	world   launch.World
	ctx     context.Context
	stop    context.CancelFunc
	runtime *pyhook.Runtime    // nil with a worker
	torch   *pyhook.TorchGroup // nil with a worker
	worker  *worker.Worker     // nil without
	group   c10d.ProcessGroup

	mu       sync.Mutex
	made     []func() // close what the job has made, in the order of its making
	closed   bool
	closeErr error
}

// ErrJoined says that the process has joined already: it has one Python and one rank.
var ErrJoined = errors.New("job: this process has joined the job already: share that Job")

// joined: this process is, or was, in a job.
var joined atomic.Bool

// Join joins the job, as Main does, for a program with a main of its own. It waits until all ranks
// have come, for Config.JoinTimeout, or until ctx ends. The caller closes the result.
//
//	j, err := job.Join(ctx, job.Config{})
//	if err == nil {
//		if err = train(j.Context(), j); err == nil {
//			err = j.Leave(ctx)
//		}
//		j.Close()
//	}
//	os.Exit(launch.Fail(err)) // after printing it
//
// Call it before anything else of the process reads or sets environment variables: see
// launch.World.Export. With Config.Worker main calls worker.Main first. A process that a launcher
// started dies with it (launch.DieWithParent). The error names the rank, and may be an
// *launch.Error, a *pyhook.DiscoveryError, a *c10d.Error or a *worker.Error; ErrJoined of a second
// Join; and it is launch.ErrTerminated where SIGTERM ended the wait.
func Join(ctx context.Context, cfg Config) (*Job, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if !joined.CompareAndSwap(false, true) {
		return nil, ErrJoined
	}
	j, err := join(ctx, cfg)
	if err != nil {
		joined.Store(false)
		return nil, err
	}
	return j, nil
}

func join(ctx context.Context, cfg Config) (*Job, error) {
	world, err := launch.Detect(launch.Options{})
	if err != nil {
		return nil, err
	}
	j := &Job{world: world}
	if cfg.Ranks > 1 && world.Source == launch.SourceSingle {
		return nil, fmt.Errorf("job: Join is given Config.Ranks: %d, and no launcher started this process: call Spawn(%d) first in main, which starts them, or use Main", cfg.Ranks, cfg.Ranks)
	}
	if hasLauncher(world) {
		if err := launch.DieWithParent(); err != nil {
			return nil, j.errorf("%w", err)
		}
	}
	if err := world.Export(); err != nil {
		return nil, j.errorf("%w", err)
	}
	if world.Note != "" {
		fmt.Fprintf(os.Stderr, "%s: %s\n", program(), world.Note)
	}
	j.ctx, j.stop = launch.WithSIGTERM(ctx)
	if err := j.start(cfg); err != nil {
		err = j.errorf("joining the job: %w", j.ended(err))
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// hasLauncher reports whether a launcher waits for this process, and is not by accident its parent:
// one that a shell started, by hand, outlives that.
func hasLauncher(w launch.World) bool {
	byHand := w.Source == launch.SourceEnv && w.RunID == ""
	return w.Source != launch.SourceSingle && !byHand
}

// start starts Python, here or in a worker, and makes the group.
func (j *Job) start(cfg Config) (err error) {
	if cfg.Worker != nil {
		if j.worker, err = worker.Start(j.ctx, *cfg.Worker); err != nil {
			return err
		}
		j.group = j.worker.Group()
		return nil
	}
	if j.runtime, err = pyhook.Start(j.ctx, cfg.Python); err != nil {
		return err
	}
	backend := cfg.Backend
	if backend == "" {
		backend = "gloo"
	}
	j.torch, err = j.runtime.InitProcessGroup(j.ctx, pyhook.GroupConfig{Backend: backend, Timeout: cfg.Timeout, JoinTimeout: cfg.JoinTimeout})
	if err != nil {
		return err
	}
	j.group = j.torch
	return nil
}

// Context ends when the launcher stops this rank by SIGTERM, with the cause launch.ErrTerminated,
// with Join's context, and at Close. A training loop gives it to what waits, and ends with it.
func (j *Job) Context() context.Context { return j.ctx }

// World is what the launcher said: which rank this is, and of how many, here and on all machines.
func (j *Job) World() launch.World { return j.world }

// Rank returns this process's rank, from 0.
func (j *Job) Rank() int { return j.world.Rank }

// Size returns the number of ranks.
func (j *Job) Size() int { return j.world.Size }

// Group returns the process group of all ranks, as ddp.Options.Group takes it. It belongs to j.
func (j *Job) Group() c10d.ProcessGroup { return j.group }

// Runtime returns this process's Python, or nil with Config.Worker. It belongs to j.
func (j *Job) Runtime() *pyhook.Runtime { return j.runtime }

// TorchGroup returns torch's group, or nil with Config.Worker. It belongs to j.
func (j *Job) TorchGroup() *pyhook.TorchGroup { return j.torch }

// Worker returns the process that Config.Worker asked for, or nil. It belongs to j.
func (j *Job) Worker() *worker.Worker { return j.worker }

// Leave waits until all ranks have called it, at most Config.Timeout or until ctx ends: rank 0 serves
// the store, and must not end before the others. Main does it when train has returned nil; after an
// error nobody shall wait. Close Reducers before (ddp.CloseAll), as Main does: a rank that still trains,
// with more steps than this one, then hears it at once, and not when Config.Timeout has passed. Then Close.
func (j *Job) Leave(ctx context.Context) error {
	if j.Size() == 1 {
		return nil
	}
	if err := j.group.Barrier(ctx); err != nil {
		return j.errorf("this rank is done, and waited for the others to be: %w", j.ended(err))
	}
	return nil
}

// Close closes what j has made and is not closed yet, last things first: Reducers and hooks, the
// group, Python. Adapters that train with it are closed before. It waits for hook calls that are
// inside, and as Runtime.Close does for what Python waits for at its end. Context ends. Idempotent.
func (j *Job) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return j.closeErr
	}
	j.closed = true
	for _, closeIt := range slices.Backward(j.made) {
		closeIt()
	}
	if j.torch != nil {
		j.torch.Close()
	}
	if j.worker != nil {
		j.worker.Close()
	}
	if j.runtime != nil {
		j.closeErr = j.runtime.Close()
	}
	j.stop()
	return j.closeErr
}

// owns has Close close what was just made, or closes it now.
func (j *Job) owns(closeIt func()) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		closeIt()
		return j.errorf("the job: %w", c10d.ErrClosed)
	}
	j.made = append(j.made, closeIt)
	return nil
}

// ended returns err, which is launch.ErrTerminated too if SIGTERM came before it.
func (j *Job) ended(err error) error {
	if err == nil || errors.Is(err, launch.ErrTerminated) || !errors.Is(context.Cause(j.ctx), launch.ErrTerminated) {
		return err
	}
	return fmt.Errorf("%w: %w", launch.ErrTerminated, err)
}

func (j *Job) errorf(format string, args ...any) error {
	return fmt.Errorf("job, rank %d of %d: "+format, append([]any{j.world.Rank, j.world.Size}, args...)...)
}

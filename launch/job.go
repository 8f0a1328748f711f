package launch

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Group is a running set of ranks, made by Start. Its methods are safe for
// concurrent use.
type Group struct {
	config SpawnConfig
	ranks  []*rankProcess
	dir    string // holds the error files

	exits chan *rankProcess
	ended chan struct{} // closed when every rank is reaped and err is set
	err   error
}

// Spawn starts cfg.N ranks of a command on this machine and waits for all of
// them. It is Start and Wait.
func Spawn(ctx context.Context, cfg SpawnConfig) error {
	g, err := Start(ctx, cfg)
	if err != nil {
		return err
	}
	return g.Wait()
}

// Start starts the ranks under torchrun's contract: RANK, LOCAL_RANK,
// WORLD_SIZE, LOCAL_WORLD_SIZE, GROUP_*, ROLE_*, MASTER_ADDR=127.0.0.1,
// MASTER_PORT and TORCHELASTIC_*, with an error file for each rank. Where
// OMP_NUM_THREADS is unset it becomes the CPUs this process may use, by
// GOMAXPROCS, divided by N and at least 1: otherwise every rank would start
// a thread for every CPU. (torchrun sets 1 always.) Standard input is empty.
//
// When a rank fails, or ctx is cancelled, the others get SIGTERM and, after the
// grace period, SIGKILL. There are no restarts.
//
// Each rank leads a process group of its own. So Ctrl-C at a terminal reaches
// the launcher alone, which must cancel ctx on it and so gives every rank the
// orderly SIGTERM of the contract; and the signals reach what a rank started,
// such as data loaders. Whatever is left of a group when its rank ends is
// killed: a wrapper script should exec the trainer.
//
// On Linux the ranks, if not what they started, die with this process even when
// it is killed (see DieWithParent).
//
// An error means that no rank runs. A nil error obliges the caller to call
// Wait or to cancel ctx.
func Start(ctx context.Context, cfg SpawnConfig) (*Group, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, stopped(ctx)
	}
	dir, err := os.MkdirTemp("", "pyhook-launch-")
	if err != nil {
		return nil, fmt.Errorf("launch: make a folder for the error files: %w", err)
	}
	g := &Group{config: cfg, dir: dir, exits: make(chan *rankProcess, cfg.N), ended: make(chan struct{})}
	lock := new(sync.Mutex)
	for rank := range cfg.N {
		g.ranks = append(g.ranks, newRankProcess(cfg, rank, dir, lock))
	}
	started := make(chan error)
	go g.startAll(started)
	if err := <-started; err != nil {
		return nil, err
	}
	go g.supervise(ctx)
	return g, nil
}

// startAll keeps one OS thread until the last rank has ended: the kernel sends
// a rank its death signal when the thread that started it ends, and Go ends
// threads as it likes.
func (g *Group) startAll(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for i, p := range g.ranks {
		if err := p.start(); err != nil {
			g.abandon(g.ranks[:i])
			started <- fmt.Errorf("launch: start rank %d: %w", i, err)
			return
		}
		go func() {
			p.wait()
			g.exits <- p
		}()
	}
	started <- nil
	<-g.ended
}

// abandon undoes a start that failed half way. These ranks have done nothing
// yet, so they get no grace.
func (g *Group) abandon(running []*rankProcess) {
	for _, p := range running {
		p.signal(syscall.SIGKILL)
	}
	for range running {
		<-g.exits
	}
	os.RemoveAll(g.dir)
}

// Wait returns when every rank has ended: nil when all exited with 0, a
// *RankError for the root cause when one failed, and an error that wraps
// context.Cause of Start's ctx when that was cancelled first. It may be called
// more than once.
func (g *Group) Wait() error {
	<-g.ended
	return g.err
}

// Pids gives the ranks' process ids, by rank. They may have ended.
func (g *Group) Pids() []int {
	pids := make([]int, len(g.ranks))
	for i, p := range g.ranks {
		pids[i] = p.cmd.Process.Pid
	}
	return pids
}

// supervise sees the ranks to their end.
func (g *Group) supervise(ctx context.Context) {
	defer close(g.ended)
	defer os.RemoveAll(g.dir)
	var (
		cancelled = ctx.Done()
		kill      <-chan time.Time
		stopErr   error
		failed    []*rankProcess
	)
	stop := func() {
		cancelled = nil
		g.signalAll(syscall.SIGTERM)
		timer := time.NewTimer(g.config.GracePeriod)
		kill = timer.C
	}
	for running := len(g.ranks); running > 0; {
		select {
		case p := <-g.exits:
			running--
			if !p.failed() {
				continue
			}
			failed = append(failed, p)
			if kill == nil {
				stop()
			}
		case <-cancelled:
			stopErr = stopped(ctx)
			stop()
		case <-kill:
			g.signalAll(syscall.SIGKILL)
		}
	}
	switch {
	case stopErr != nil:
		g.err = stopErr
	case len(failed) > 0:
		g.err = rootCause(failed)
	}
}

func stopped(ctx context.Context) error {
	return fmt.Errorf("launch: the ranks were stopped: %w", context.Cause(ctx))
}

func (g *Group) signalAll(sig syscall.Signal) {
	for _, p := range g.ranks {
		p.signal(sig)
	}
}

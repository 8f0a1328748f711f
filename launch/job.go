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

// Job is a set of rank processes, made by Start. Its methods are safe for
// concurrent use.
type Job struct {
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
	j, err := Start(ctx, cfg)
	if err != nil {
		return err
	}
	return j.Wait()
}

// Start starts the ranks under torchrun's contract: RANK, LOCAL_RANK,
// WORLD_SIZE, LOCAL_WORLD_SIZE, GROUP_*, ROLE_*, MASTER_ADDR=127.0.0.1,
// MASTER_PORT and TORCHELASTIC_*, with an error file for each rank. Where
// OMP_NUM_THREADS is unset it becomes the CPUs this process may use, by
// GOMAXPROCS, divided by N and at least 1: otherwise every rank would start
// a thread for every CPU. (torchrun always sets 1.) Standard input is empty.
//
// When a rank fails, or ctx is cancelled, Start sends the others SIGTERM and, after the
// grace period, SIGKILL. There are no restarts.
//
// Each rank leads a process group of its own. So Ctrl-C at a terminal reaches
// the launcher alone. The launcher must cancel ctx on it, which sends every rank
// the SIGTERM of the contract. Signals also reach the processes that a rank
// started, such as data loaders. When a rank ends, Start kills what is left of
// its group: a wrapper script should exec the trainer.
//
// The ranks, though not the processes that they started, die with this process even
// when it is killed (see DieWithParent).
//
// When Start returns an error, no rank runs. Otherwise the ranks run until they end or ctx is
// cancelled: call Wait, or cancel ctx.
func Start(ctx context.Context, cfg SpawnConfig) (*Job, error) {
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
	j := &Job{config: cfg, dir: dir, exits: make(chan *rankProcess, cfg.N), ended: make(chan struct{})}
	lock := new(sync.Mutex)
	for rank := range cfg.N {
		j.ranks = append(j.ranks, newRankProcess(cfg, rank, dir, lock))
	}
	started := make(chan error)
	go j.startAll(ctx, started)
	if err := <-started; err != nil {
		return nil, err
	}
	go j.supervise(ctx)
	return j, nil
}

// startAll keeps one OS thread until the last rank has ended: the kernel sends
// a rank its death signal when the thread that started it ends, and Go may end
// any other thread.
func (j *Job) startAll(ctx context.Context, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for i, p := range j.ranks {
		var err error
		if ctx.Err() != nil { // to start many takes a while
			err = stopped(ctx)
		} else if err = p.start(); err != nil {
			err = fmt.Errorf("launch: start rank %d: %w", i, err)
		}
		if err != nil {
			j.abandon(j.ranks[:i])
			started <- err
			return
		}
		go func() {
			p.wait()
			j.exits <- p
		}()
	}
	started <- nil
	<-j.ended
}

// abandon kills the ranks of a start that failed half way. They have done nothing
// yet, so they get no grace period.
func (j *Job) abandon(running []*rankProcess) {
	for _, p := range running {
		p.signal(syscall.SIGKILL)
	}
	for range running {
		<-j.exits
	}
	os.RemoveAll(j.dir)
}

// Wait returns when every rank has ended: nil when all exited with 0, a
// *RankError for the root cause when one failed, and an error that wraps
// context.Cause of Start's ctx when that was cancelled first. It may be called
// more than once.
func (j *Job) Wait() error {
	<-j.ended
	return j.err
}

// Pids returns the ranks' process ids, by rank. The processes may have ended.
func (j *Job) Pids() []int {
	pids := make([]int, len(j.ranks))
	for i, p := range j.ranks {
		pids[i] = p.cmd.Process.Pid
	}
	return pids
}

// supervise waits for all ranks, and stops them when one fails or ctx ends.
func (j *Job) supervise(ctx context.Context) {
	defer close(j.ended)
	defer os.RemoveAll(j.dir)
	var (
		cancelled = ctx.Done()
		kill      <-chan time.Time
		stopErr   error
		failed    []*rankProcess
	)
	stop := func() {
		cancelled = nil
		j.signalAll(syscall.SIGTERM)
		timer := time.NewTimer(j.config.GracePeriod)
		kill = timer.C
	}
	for running := len(j.ranks); running > 0; {
		select {
		case p := <-j.exits:
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
			j.signalAll(syscall.SIGKILL)
		}
	}
	switch {
	case stopErr != nil:
		j.err = stopErr
	case len(failed) > 0:
		j.err = rootCause(failed)
	}
}

func stopped(ctx context.Context) error {
	return fmt.Errorf("launch: the ranks were stopped: %w", context.Cause(ctx))
}

func (j *Job) signalAll(sig syscall.Signal) {
	for _, p := range j.ranks {
		p.signal(sig)
	}
}

package worker

import (
	"io"
	"os"
	"strconv"
	"sync"
	"time"
)

// Config says how a worker is started, and when it has failed. The zero value joins
// a gloo group by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun sets
// them.
type Config struct {
	// Python, Library and Path: see pyhook.Config.
	Python, Library string
	Path            []string

	// Backend of the group; empty: gloo.
	Backend string
	// InitMethod is "env://" (the default), "tcp://host:port" or "file://path". The
	// address is served by rank 0's worker, and it must still be free there at a
	// Restart. Under torchrun's own store that serves.
	InitMethod string
	// Rank and Size of this worker in the group; Size 0: from RANK and WORLD_SIZE.
	// Several workers of one program have a rank each.
	Rank, Size int
	// Env is added to this process's environment, "NAME=value".
	Env []string

	// Timeout of each hook call, from its start to its future's completion, and of
	// each collective. What takes longer is ErrHung, and ends the worker. 0: 30
	// minutes.
	Timeout time.Duration
	// StartTimeout is that of the start: Python's, torch's, and the meeting of all
	// ranks. 0: 5 minutes.
	StartTimeout time.Duration
	// FrozenAfter: a worker without any sign of life for so long is ErrFrozen. 0: 10
	// seconds.
	FrozenAfter time.Duration
	// MemoryLimit in bytes of what the worker has in memory for itself, without the
	// buckets and libraries. More is ErrMemory. The trainer reads it every 20 ms. 0: none.
	MemoryLimit int64
	// KeepOnCancel: a call whose context has ended goes on, until Timeout. Otherwise
	// the worker is ended at once, so that nothing writes to the bucket any more.
	KeepOnCancel bool
	// Restarts is how often Restart may be called; 0: without limit, -1: never.
	Restarts int

	// Output takes what the worker prints, line by line behind "[worker 1] "; nil:
	// os.Stderr. It is called from goroutines of this package, one at a time.
	Output io.Writer

	rank       int    // as far as it is known
	title      string // of the process, for ps
	outputLock *sync.Mutex
}

func (c *Config) setDefaults() {
	c.outputLock = new(sync.Mutex)
	if c.Backend == "" {
		c.Backend = "gloo"
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Minute
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = 5 * time.Minute
	}
	if c.FrozenAfter == 0 {
		c.FrozenAfter = 10 * time.Second
	}
	if c.Output == nil {
		c.Output = os.Stderr
	}
	if c.Size > 0 {
		c.rank = c.Rank
		return
	}
	c.rank = -1
	if rank, err := strconv.Atoi(os.Getenv("RANK")); err == nil {
		c.rank = rank
	}
}

// rankAndSize returns the rank and size to join with, from RANK and WORLD_SIZE if Size is 0.
func (c *Config) rankAndSize() (rank, size int, err error) {
	if c.Size > 0 {
		return c.Rank, c.Size, nil
	}
	if rank, err = strconv.Atoi(os.Getenv("RANK")); err != nil {
		return 0, 0, errNoRank
	}
	if size, err = strconv.Atoi(os.Getenv("WORLD_SIZE")); err != nil {
		return 0, 0, errNoRank
	}
	return rank, size, nil
}

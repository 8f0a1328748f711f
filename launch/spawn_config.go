package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"pyhook/internal/freeport"
)

// Show selects how the ranks' output is passed on.
type Show int

// The values of Show.
const (
	ShowPrefixed Show = iota // each line behind "[rank 1] "
	ShowPlain                // lines as they are
)

// SpawnConfig describes a Job. Command and N are required; the zero value of the
// rest works.
type SpawnConfig struct {
	Command []string // the program, looked up in PATH, and its arguments
	N       int      // ranks, at most 1024
	Dir     string   // working directory; empty is the caller's
	Env     []string // the environment under the contract's variables; nil is os.Environ()

	// GracePeriod is the time between SIGTERM and SIGKILL; 0 is 30 s, as torchrun's.
	GracePeriod time.Duration

	Show Show
	// Stdout and Stderr receive the ranks' output, in whole lines, one Write at a
	// time even when both are the same writer; nil is os.Stdout and os.Stderr.
	Stdout, Stderr io.Writer
	// TailBytes is how much of each rank's last output is kept for
	// RankError.Tail; 0 is 8 KiB.
	TailBytes int

	masterPort int    // where rank 0 listens, on 127.0.0.1
	runID      string // TORCHELASTIC_RUN_ID
}

// maxRanks is more than a machine has accelerators or cores for, and fewer processes than overwhelm it
// when a digit too many is typed.
const maxRanks = 1024

func (c SpawnConfig) withDefaults() (SpawnConfig, error) {
	switch {
	case len(c.Command) == 0 || c.Command[0] == "":
		return c, errors.New("launch: no command to spawn")
	case c.N < 1:
		return c, fmt.Errorf("launch: cannot spawn %d ranks: at least 1 is needed", c.N)
	case c.N > maxRanks:
		return c, fmt.Errorf("launch: cannot spawn %d ranks: at most %d on one machine, as each is a process", c.N, maxRanks)
	case c.GracePeriod < 0:
		return c, fmt.Errorf("launch: the grace period %s is negative", c.GracePeriod)
	}
	if c.Env == nil {
		c.Env = os.Environ()
	}
	port, err := freeport.Find()
	if err != nil {
		return c, fmt.Errorf("launch: find a free port for rank 0: %w", err)
	}
	c.masterPort = port
	c.runID = fmt.Sprintf("pyhook-%d-%d", os.Getpid(), time.Now().UnixNano())
	if c.GracePeriod == 0 {
		c.GracePeriod = 30 * time.Second
	}
	if c.TailBytes <= 0 {
		c.TailBytes = 8 << 10
	}
	if c.Stdout == nil {
		c.Stdout = os.Stdout
	}
	if c.Stderr == nil {
		c.Stderr = os.Stderr
	}
	return c, nil
}

// world returns the World of one rank. Its variables come from World.Environ, as those of
// a World that Detect found.
func (c SpawnConfig) world(rank int) World {
	return World{
		Rank: rank, Size: c.N, LocalRank: rank, LocalSize: c.N, Nodes: 1,
		MasterAddr: loopback, MasterPort: c.masterPort, Source: SourceEnv, RunID: c.runID,
	}
}

const threads = "OMP_NUM_THREADS="

// environ returns the whole environment of a rank. It replaces the variables of an outer
// torchrun's agent: with TORCHELASTIC_USE_AGENT_STORE=True every rank would connect to a
// store that nobody serves.
func (c SpawnConfig) environ(rank int, errorFile string) []string {
	set := append(c.world(rank).Environ(),
		"ROLE_NAME=default",
		"ROLE_RANK="+strconv.Itoa(rank),
		"ROLE_WORLD_SIZE="+strconv.Itoa(c.N),
		"TORCHELASTIC_RUN_ID="+c.runID,
		"TORCHELASTIC_RESTART_COUNT=0",
		"TORCHELASTIC_MAX_RESTARTS=0",
		"TORCHELASTIC_USE_AGENT_STORE=False",
		errorFileVariable+"="+errorFile,
		parentVariable+"="+strconv.Itoa(os.Getpid()),
	)
	if !slices.ContainsFunc(c.Env, func(kv string) bool { return strings.HasPrefix(kv, threads) && kv != threads }) {
		set = append(set, threads+strconv.Itoa(max(1, runtime.GOMAXPROCS(0)/c.N)))
	}
	return slices.Concat(c.Env, set) // exec takes the last of those of one name
}

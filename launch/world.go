package launch

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// Source names the family of variables that gave the rank, such as "slurm". Each family has
// one constant. Its value is for JSON and for comparisons; World.String has it in words.
type Source string

// origin is how messages call the family.
func (s Source) origin() string {
	for _, f := range families {
		if f.source == s {
			return f.origin
		}
	}
	return string(s)
}

// World is this process's rank and the size of the job, on all machines and on
// this one, and the address at which the ranks meet. It is a plain value: copy
// it freely. Detect makes valid ones; Export refuses the zero World.
type World struct {
	Rank int // 0 <= Rank < Size
	Size int // processes in the job, at least 1

	LocalRank int // which process of this machine, hence which GPU
	LocalSize int // processes of the job on this machine

	// NodeRank and Nodes come from the launcher where it sets them. For MPI, and
	// for RANK without GROUP_RANK, they are derived as if ranks fill one machine
	// after the other, which is the default of every launcher here.
	NodeRank int
	Nodes    int

	MasterAddr string // where rank 0 listens
	MasterPort int    // 1..65535

	Source Source
	// Note is empty, or a remark on the choice for the reader of the log, such
	// as that a Slurm batch script is not a task of srun.
	Note string

	// RestartCount is how often the launcher restarted the job. It does not
	// identify an attempt: torchelastic restarts on a change of membership
	// without raising it.
	RestartCount int
	RunID        string // the launcher's name of the job, or empty
	ErrorFile    string // TORCHELASTIC_ERROR_FILE, or empty
}

// String gives the rank, the family that it came from and the master address:
//
//	rank 1 of 4 (local 1 of 2) from torchrun's RANK/WORLD_SIZE, master 10.0.0.1:29500
func (w World) String() string {
	s := fmt.Sprintf("rank %d of %d (local %d of %d) from %s, master %s",
		w.Rank, w.Size, w.LocalRank, w.LocalSize, w.Source.origin(),
		net.JoinHostPort(w.MasterAddr, strconv.Itoa(w.MasterPort)))
	if w.Note != "" {
		s += "; " + w.Note
	}
	return s
}

// Environ gives the variables of torchrun's contract for this rank, as
// "KEY=value", for a child process or an embedded interpreter. TORCHELASTIC_*
// is not among them: whether the store lives in an agent is between the agent
// and torch.distributed, and a wrong TORCHELASTIC_USE_AGENT_STORE hangs the
// rendezvous.
func (w World) Environ() []string {
	return []string{
		"RANK=" + strconv.Itoa(w.Rank),
		"WORLD_SIZE=" + strconv.Itoa(w.Size),
		"LOCAL_RANK=" + strconv.Itoa(w.LocalRank),
		"LOCAL_WORLD_SIZE=" + strconv.Itoa(w.LocalSize),
		"GROUP_RANK=" + strconv.Itoa(w.NodeRank),
		"GROUP_WORLD_SIZE=" + strconv.Itoa(w.Nodes),
		"MASTER_ADDR=" + w.MasterAddr,
		"MASTER_PORT=" + strconv.Itoa(w.MasterPort),
	}
}

// Export puts Environ into this process's environment.
//
// Call it before Python starts. CPython reads the environment once, at start,
// into os.environ; and os.Setenv calls C's setenv in a cgo program, which is
// not safe while another thread reads the environment, as libraries that Python
// loads do.
//
// It fails, and sets nothing, when w is not valid (the zero World, say).
func (w World) Export() error {
	if err := w.check(fieldNames{
		rank: "Rank", worldSize: "Size", localRank: "LocalRank", localWorldSize: "LocalSize",
		nodeRank: "NodeRank", nodes: "Nodes", masterAddr: "MasterAddr", masterPort: "MasterPort",
	}); err != nil {
		return err
	}
	for _, variable := range w.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("launch: set %s: %w", name, err)
		}
	}
	return nil
}

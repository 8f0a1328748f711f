package launch

import (
	"fmt"
	"net"
	"os"
	"strconv"
)

// Source names the family of variables that decided the rank.
type Source string

// The families, in the order in which Detect looks for them.
const (
	SourceFlags   Source = "flags"   // Options.Flags
	SourceEnv     Source = "env"     // RANK and WORLD_SIZE, as torchrun and PyTorchJob set them
	SourcePET     Source = "pet"     // PET_*, torchrun's arguments as variables
	SourceSlurm   Source = "slurm"   // SLURM_*, set by srun
	SourceOpenMPI Source = "openmpi" // OMPI_COMM_WORLD_*, set by OpenMPI's mpirun
	SourcePMI     Source = "pmi"     // PMI_* or MV2_COMM_WORLD_*, set by Hydra, PALS and MVAPICH2
	SourceSingle  Source = "single"  // no launcher: rank 0 of 1
)

func (s Source) describe() string {
	switch s {
	case SourceFlags:
		return "the flags"
	case SourceEnv:
		return "torchrun's RANK/WORLD_SIZE"
	case SourcePET:
		return "torchrun's PET_* arguments"
	case SourceSlurm:
		return "Slurm's SLURM_PROCID/SLURM_NTASKS"
	case SourceOpenMPI:
		return "OpenMPI's OMPI_COMM_WORLD_*"
	case SourcePMI:
		return "the MPI launcher's PMI_*/MV2_*"
	case SourceSingle:
		return "no launcher"
	}
	return string(s)
}

// World is this process's place in the job. It is a plain value: copy it freely.
// Only Detect makes a sound one; the zero World is refused by Export.
type World struct {
	Rank      int // 0 <= Rank < WorldSize
	WorldSize int // processes in the job, at least 1

	LocalRank      int // which process of this machine, hence which GPU
	LocalWorldSize int // processes of the job on this machine

	// NodeRank and Nodes come from the launcher where it says them. For MPI, and
	// for RANK without GROUP_RANK, they are derived as if ranks fill one machine
	// after the other, which is the default of every launcher here.
	NodeRank int
	Nodes    int

	MasterAddr string // where rank 0 listens
	MasterPort int    // 1..65535

	Source Source
	// Note is empty, or says what a reader of the log should know about the
	// choice, such as that a Slurm batch shell is not a task of srun.
	Note string

	// RestartCount is how often the launcher restarted the job. It does not
	// identify an attempt: torchelastic restarts on a change of membership
	// without raising it.
	RestartCount int
	RunID        string // the launcher's name of the job, or empty
	ErrorFile    string // TORCHELASTIC_ERROR_FILE, or empty
}

// String says the rank, where it was found and where the ranks meet:
//
//	rank 1 of 4 (local 1 of 2) from torchrun's RANK/WORLD_SIZE, master 10.0.0.1:29500
func (w World) String() string {
	s := fmt.Sprintf("rank %d of %d (local %d of %d) from %s, master %s",
		w.Rank, w.WorldSize, w.LocalRank, w.LocalWorldSize, w.Source.describe(),
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
	pairs := w.pairs()
	environ := make([]string, len(pairs))
	for i, p := range pairs {
		environ[i] = p[0] + "=" + p[1]
	}
	return environ
}

func (w World) pairs() [][2]string {
	return [][2]string{
		{"RANK", strconv.Itoa(w.Rank)},
		{"WORLD_SIZE", strconv.Itoa(w.WorldSize)},
		{"LOCAL_RANK", strconv.Itoa(w.LocalRank)},
		{"LOCAL_WORLD_SIZE", strconv.Itoa(w.LocalWorldSize)},
		{"GROUP_RANK", strconv.Itoa(w.NodeRank)},
		{"GROUP_WORLD_SIZE", strconv.Itoa(w.Nodes)},
		{"MASTER_ADDR", w.MasterAddr},
		{"MASTER_PORT", strconv.Itoa(w.MasterPort)},
	}
}

// Export puts Environ into this process's environment.
//
// Call it before Python starts. CPython reads the environment once, at start,
// into os.environ; and os.Setenv calls C's setenv in a cgo program, which is
// not safe while another thread reads the environment, as libraries that Python
// loads do.
//
// It fails, and sets nothing, when w is not sound (the zero World, say).
func (w World) Export() error {
	if err := w.check(variables{
		rank: "Rank", worldSize: "WorldSize", localRank: "LocalRank", localWorldSize: "LocalWorldSize",
		nodeRank: "NodeRank", nodes: "Nodes", masterAddr: "MasterAddr", masterPort: "MasterPort",
	}); err != nil {
		return err
	}
	for _, p := range w.pairs() {
		if err := os.Setenv(p[0], p[1]); err != nil {
			return fmt.Errorf("launch: set %s: %w", p[0], err)
		}
	}
	return nil
}

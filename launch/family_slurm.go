package launch

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// SourceSlurm is SLURM_*, set by srun.
const SourceSlurm Source = "slurm"

var slurmFamily = family{
	source: SourceSlurm, origin: "Slurm's SLURM_PROCID/SLURM_NTASKS", claims: claimsSlurm,
	rankAndSize:   [][2]string{{"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"}, {"SLURM_PROCID", "SLURM_NTASKS"}},
	startsDaemons: true,
	read:          readSlurm, master: masterOfSlurm,
}

// stepVariables are set by srun for the tasks of a step, and by nothing else.
// They distinguish a task from a batch script, which sbatch gives SLURM_PROCID=0,
// SLURM_LOCALID=0 and, with -n, SLURM_NTASKS too: a script that counted as rank 0
// of SLURM_NTASKS would wait for peers that nobody starts.
var stepVariables = []string{"SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID", "SLURM_STEPID",
	"SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NUM_NODES"}

func claimsSlurm(e environment) bool {
	procid, set := e.text("SLURM_PROCID")
	return e.any(stepVariables...) || set && procid != "0" // only srun sets one above 0
}

func slurmJobID(e environment) string {
	_, id := e.first("SLURM_JOB_ID", "SLURM_JOBID")
	return id
}

// readSlurm prefers a step's variables to the job's: a step may run on part of
// the allocation.
func readSlurm(r *reader) World {
	r.names = fieldNames{rank: "SLURM_PROCID", localRank: "SLURM_LOCALID", nodeRank: "SLURM_NODEID",
		worldSize: r.firstOr("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"),
		nodes:     r.firstOr("SLURM_JOB_NUM_NODES", "SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES", "SLURM_NNODES")}
	claimed, _ := r.first(append(stepVariables, "SLURM_PROCID")...)
	const hint = "srun sets it for every task: start the trainer with srun, or set RANK and WORLD_SIZE"
	w := World{
		Rank:         r.required(r.names.rank, claimed, hint),
		Size:         r.required(r.names.worldSize, claimed, hint),
		LocalRank:    r.required(r.names.localRank, claimed, hint),
		RestartCount: r.optional("SLURM_RESTART_COUNT", 0),
		RunID:        slurmJobID(r.environment),
	}
	w.Nodes = r.slurmNodes(w)
	if w.Nodes > 1 {
		w.NodeRank = r.required(r.names.nodeRank, claimed, hint)
	} else {
		w.NodeRank = r.optional(r.names.nodeRank, 0)
	}
	if r.err == nil {
		w.LocalSize = r.slurmLocalSize(w)
	}
	return w
}

func (r *reader) firstOr(fallback string, names ...string) string {
	if name, _ := r.first(names...); name != "" {
		return name
	}
	return fallback
}

func (r *reader) slurmNodes(w World) int {
	if n, ok := r.integer(r.names.nodes); ok {
		return n
	}
	if w.Size == 1 {
		return 1
	}
	r.fail(r.names.nodes, "", "is not set", "srun sets it: pass on its whole environment (srun --export=ALL)")
	return 0
}

// slurmLocalSize looks first at the per-node list, the only one that is right
// when nodes differ.
func (r *reader) slurmLocalSize(w World) int {
	name, text := r.first("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
	if name != "" {
		r.names.localWorldSize = name
		n, err := tasksOnNode(text, w.NodeRank)
		if err != nil {
			r.fail(name, text, err.Error(), `Slurm writes it as "2(x3),1"`)
		}
		return n
	}
	r.names.localWorldSize = "SLURM_NTASKS_PER_NODE"
	if w.Nodes == 1 {
		return w.Size
	}
	if n, ok := r.integer(r.names.localWorldSize); ok {
		return min(n, w.Size)
	}
	if w.Nodes > 0 && w.Size%w.Nodes == 0 {
		return w.Size / w.Nodes
	}
	r.fail("SLURM_STEP_TASKS_PER_NODE", "", fmt.Sprintf("is not set, and %d tasks do not spread evenly on %d nodes", w.Size, w.Nodes),
		"srun sets it: pass on its whole environment (srun --export=ALL)")
	return 0
}

// tasksOnNode reads "2(x3),1": two tasks on each of three nodes, then one.
func tasksOnNode(list string, node int) (int, error) {
	at := 0
	for item := range strings.SplitSeq(list, ",") {
		count, times, repeated := strings.Cut(item, "(x")
		repeat := 1
		if repeated {
			digits, closed := strings.CutSuffix(times, ")")
			n, err := strconv.ParseUint(digits, 10, 31)
			if err != nil || !closed {
				return 0, fmt.Errorf("is not a list of tasks per node")
			}
			repeat = int(n)
		}
		tasks, err := strconv.ParseUint(count, 10, 31)
		if err != nil {
			return 0, fmt.Errorf("is not a list of tasks per node")
		}
		if at += repeat; node < at {
			return int(tasks), nil
		}
	}
	return 0, fmt.Errorf("has no entry for node %d (SLURM_NODEID)", node)
}

// firstHost reads the first host of a Slurm list, as "n[001-004,7]-ib,m2": the text outside of
// brackets, and the first number in each (slurm's src/common/hostlist.c).
var (
	firstHost  = regexp.MustCompile(`^([^][,\s[:cntrl:]]|\[\d+([-,]\d+)*\])+(,|$)`)
	hostRanges = regexp.MustCompile(`\[(\d+)[^]]*\]`)
)

// firstNode returns the step's first node.
func (r *reader) firstNode() string {
	name, text := r.first("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
	if name == "" {
		r.fail("SLURM_JOB_NODELIST", "", "is not set, so the machine of rank 0 is not known",
			"srun sets it: pass on its environment (srun --export=ALL), or set MASTER_ADDR")
		return ""
	}
	r.names.masterAddr = name
	host := firstHost.FindString(text)
	if host == "" {
		r.fail(name, text, "is not a list of nodes", `Slurm writes it as "n[001-004,7],m2"; MASTER_ADDR can be set instead`)
	}
	return hostRanges.ReplaceAllString(strings.TrimSuffix(host, ","), "$1")
}

// masterOfSlurm uses the first node, where srun starts rank 0 by default;
// --distribution=arbitrary and --relative need MASTER_ADDR. Every rank derives
// the same port from the job, in Lightning's way (15000 + the last four digits
// of the job id) plus the step, so that two steps of a job have two ports.
func masterOfSlurm(r *reader, w *World) {
	if w.Size == 1 {
		masterLoopback(r, w)
		return
	}
	if w.MasterAddr == "" {
		w.MasterAddr = r.firstNode()
	}
	if w.MasterPort == 0 {
		w.MasterPort = r.slurmPort()
	}
}

func (r *reader) slurmPort() int {
	const base, span = 15000, 10000
	name, text := r.first("SLURM_JOB_ID", "SLURM_JOBID")
	if name == "" {
		r.fail("SLURM_JOB_ID", "", "is not set, so the ranks cannot agree on a port",
			"srun sets it: pass on its environment (srun --export=ALL), or set MASTER_PORT")
		return 0
	}
	job, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		r.fail(name, text, "is not an integer", "Slurm sets it; MASTER_PORT can be set instead")
	}
	// A step without a number shares the job's port.
	_, text = r.first("SLURM_STEP_ID", "SLURM_STEPID")
	step, _ := strconv.ParseUint(text, 10, 32)
	return base + int((job+step)%span)
}

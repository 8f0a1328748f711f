package launch

import (
	"fmt"
	"strconv"
	"strings"
)

// stepVariables are set by srun for the tasks of a step, and by nothing else.
// They tell a task from a batch script, which sbatch gives SLURM_PROCID=0,
// SLURM_LOCALID=0 and, with -n, SLURM_NTASKS too: a script taken for rank 0 of
// SLURM_NTASKS would wait for peers that nobody starts.
var stepVariables = []string{"SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID", "SLURM_STEPID",
	"SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NUM_NODES"}

func claimsSlurm(e environment) bool {
	// Only srun gives a PROCID above 0.
	task := e.any(stepVariables...) || firstNot(e, "SLURM_PROCID", "0")
	return task && !mpirunInsideSlurm(e)
}

func firstNot(e environment, name, value string) bool {
	v, ok := e.text(name)
	return ok && v != value
}

// mpirunInsideSlurm reports that an mpirun started the process. On the other
// nodes of an allocation mpirun starts its daemons by srun, and the ranks
// inherit the daemon's SLURM_PROCID, which is one per node and not theirs.
// With srun --mpi=pmi2 both are there too, and agree.
func mpirunInsideSlurm(e environment) bool {
	procid, _ := e.text("SLURM_PROCID")
	_, ntasks := e.first("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
	for _, v := range [][2]string{
		{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
		{"MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"},
		{"PMI_RANK", "PMI_SIZE"},
	} {
		rank, ok1 := e.text(v[0])
		size, ok2 := e.text(v[1])
		if ok1 && ok2 && (rank != procid || size != ntasks) {
			return true
		}
	}
	return false
}

func inSlurmJob(e environment) bool { return slurmJobID(e) != "" }

func slurmJobID(e environment) string {
	_, id := e.first("SLURM_JOB_ID", "SLURM_JOBID")
	return id
}

// readSlurm prefers a step's variables to the job's: a step may run on part of
// the allocation.
func readSlurm(r *reader) World {
	r.vars = variables{rank: "SLURM_PROCID", localRank: "SLURM_LOCALID", nodeRank: "SLURM_NODEID",
		worldSize: r.firstOr("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"),
		nodes:     r.firstOr("SLURM_JOB_NUM_NODES", "SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES", "SLURM_NNODES")}
	claimed, _ := r.first(append(stepVariables, "SLURM_PROCID")...)
	const hint = "srun sets it for every task: start the trainer with srun, or set RANK and WORLD_SIZE"
	w := World{
		Rank:         r.required(r.vars.rank, claimed, hint),
		WorldSize:    r.required(r.vars.worldSize, claimed, hint),
		LocalRank:    r.required(r.vars.localRank, claimed, hint),
		RestartCount: r.optional("SLURM_RESTART_COUNT", 0),
		RunID:        slurmJobID(r.environment),
	}
	w.Nodes = r.slurmNodes(w)
	if w.Nodes > 1 {
		w.NodeRank = r.required(r.vars.nodeRank, claimed, hint)
	} else {
		w.NodeRank = r.optional(r.vars.nodeRank, 0)
	}
	if r.err == nil {
		w.LocalWorldSize = r.slurmLocalSize(w)
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
	if n, ok := r.integer(r.vars.nodes); ok {
		return n
	}
	if w.WorldSize == 1 {
		return 1
	}
	list, name := r.nodelist()
	if list == nil {
		r.fail(r.vars.nodes, "", "is not set, and neither is a list of nodes",
			"srun sets both: pass on its whole environment (srun --export=ALL)")
		return 0
	}
	r.vars.nodes = name
	return list.count()
}

// slurmLocalSize looks first at the per-node list, the only one that is right
// when nodes differ.
func (r *reader) slurmLocalSize(w World) int {
	name, text := r.first("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
	if name != "" {
		r.vars.localWorldSize = name
		n, err := tasksOnNode(text, w.NodeRank)
		if err != nil {
			r.fail(name, text, err.Error(), `Slurm writes it as "2(x3),1"`)
		}
		return n
	}
	r.vars.localWorldSize = "SLURM_NTASKS_PER_NODE"
	if w.Nodes == 1 {
		return w.WorldSize
	}
	if n, ok := r.integer(r.vars.localWorldSize); ok {
		return min(n, w.WorldSize)
	}
	if w.Nodes > 0 && w.WorldSize%w.Nodes == 0 {
		return w.WorldSize / w.Nodes
	}
	r.fail("SLURM_STEP_TASKS_PER_NODE", "", fmt.Sprintf("is not set, and %d tasks do not spread evenly on %d nodes", w.WorldSize, w.Nodes),
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

// nodelist gives the step's nodes, or nil when there is no list.
func (r *reader) nodelist() (nodelist, string) {
	name, text := r.first("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
	if name == "" {
		return nil, ""
	}
	list, err := parseNodelist(text)
	if err != nil {
		r.fail(name, text, err.Error(), `Slurm writes it as "n[001-004,7],m2"; MASTER_ADDR can be set instead`)
		return nil, name
	}
	return list, name
}

// masterOfSlurm takes the first node, where srun puts rank 0 by default;
// --distribution=arbitrary and --relative need MASTER_ADDR. Every rank derives
// the same port from the job, in Lightning's way (15000 + the last four digits
// of the job id) plus the step, so that two steps of a job do not meet.
func masterOfSlurm(r *reader, w *World) {
	if w.WorldSize == 1 {
		masterLoopback(r, w)
		return
	}
	if w.MasterAddr == "" {
		list, name := r.nodelist()
		r.vars.masterAddr = name
		if list == nil {
			r.fail("SLURM_JOB_NODELIST", "", "is not set, so the machine of rank 0 is not known",
				"srun sets it: pass on its environment (srun --export=ALL), or set MASTER_ADDR")
			return
		}
		w.MasterAddr = list.first()
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

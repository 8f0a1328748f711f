package launch

import (
	"fmt"
	"strconv"
	"strings"
)

// SourcePET is PET_*, torchrun's arguments as variables.
const SourcePET Source = "pet"

var petFamily = family{
	source: SourcePET, origin: "torchrun's PET_* arguments", claims: claimsPET,
	read: readPET, masterAddr: "PET_MASTER_ADDR", masterPort: "PET_MASTER_PORT", master: masterOfPET,
}

// claimsPET looks at the variables that describe the job's shape. PET_* also
// carries options, such as PET_MAX_RESTARTS, that do not concern ranks.
func claimsPET(e environment) bool {
	return e.any("PET_NNODES", "PET_NODE_RANK", "PET_NPROC_PER_NODE", "PET_MASTER_ADDR", "PET_MASTER_PORT")
}

// readPET reads torchrun's arguments, as Kubeflow Trainer v2 sets them for a
// pod. They are meant for torchrun, which turns them into RANK; a bare binary
// can do that itself while the pod runs one process, or each has its own
// LOCAL_RANK.
func readPET(r *reader) World {
	r.names = fieldNames{rank: "PET_NODE_RANK", worldSize: "PET_NNODES", localRank: "LOCAL_RANK",
		localWorldSize: "PET_NPROC_PER_NODE", nodeRank: "PET_NODE_RANK", nodes: "PET_NNODES"}
	w := World{Nodes: r.petNodes(), LocalSize: r.petProcesses()}
	if w.Nodes > 1 {
		w.NodeRank = r.required("PET_NODE_RANK", "PET_NNODES", "the job's controller sets it for each pod; it counts from 0")
	} else {
		w.NodeRank = r.optional("PET_NODE_RANK", 0)
	}
	local, set := r.integer("LOCAL_RANK")
	if !set && w.LocalSize > 1 {
		r.fail("PET_NPROC_PER_NODE", strconv.Itoa(w.LocalSize), "means several processes on this node, and LOCAL_RANK is not set",
			"start the trainer by torchrun --no_python, set LOCAL_RANK for each process, or use one process per node")
	}
	w.LocalRank = local
	// 32-bit factors: the product of two sound ones cannot overflow int on the
	// 64-bit machines that torch runs on.
	w.Size = w.Nodes * w.LocalSize
	w.Rank = w.NodeRank*w.LocalSize + w.LocalRank
	w.RunID, _ = r.text("PET_RDZV_ID")
	if r.err == nil {
		r.checkPETShape(w)
	}
	return w
}

// checkPETShape refuses factors before their product, which would name a
// number that the user wrote nowhere.
func (r *reader) checkPETShape(w World) {
	for _, f := range []struct {
		name          string
		n, low, above int
	}{
		{"PET_NNODES", w.Nodes, 1, w.Nodes + 1},
		{"PET_NPROC_PER_NODE", w.LocalSize, 1, w.LocalSize + 1},
		{"PET_NODE_RANK", w.NodeRank, 0, w.Nodes},
		{"LOCAL_RANK", w.LocalRank, 0, w.LocalSize},
	} {
		if f.n < f.low || f.n >= f.above {
			r.fail(f.name, strconv.Itoa(f.n), fmt.Sprintf("is out of range in a job of %d nodes with %d processes each", w.Nodes, w.LocalSize),
				"ranks count from 0, nodes and processes from 1")
		}
	}
}

// petNodes accepts "4" and "4:4". A real range has no number of ranks before
// torchrun's rendezvous fixes one.
func (r *reader) petNodes() int {
	const name = "PET_NNODES"
	text, ok := r.text(name)
	low, high, isRange := strings.Cut(text, ":")
	if ok && isRange && low != high {
		r.fail(name, text, "is an elastic range, so the number of ranks is not known before a rendezvous",
			"start the trainer by torchrun --no_python, or fix the number of nodes")
		return 0
	}
	if !ok {
		set, _ := r.first("PET_NODE_RANK", "PET_NPROC_PER_NODE", "PET_MASTER_ADDR", "PET_MASTER_PORT")
		r.fail(name, "", fmt.Sprintf("is not set although %s is", set), "set it to the number of nodes, or unset PET_*")
		return 0
	}
	n, err := strconv.ParseInt(low, 10, 32)
	if err != nil {
		r.fail(name, text, "is not an integer", "set it to the number of nodes")
	}
	return int(n)
}

// petProcesses defaults to 1, as torchrun does. "auto", "cpu" and "gpu" stand
// for a count that torchrun reads from the machine at its own start.
func (r *reader) petProcesses() int {
	const name = "PET_NPROC_PER_NODE"
	switch text, _ := r.text(name); text {
	case "auto", "cpu", "gpu", "xpu":
		r.fail(name, text, "is a number of processes that only torchrun can determine",
			"set numProcPerNode to 1, or start the trainer by torchrun --no_python")
		return 0
	}
	return r.optional(name, 1)
}

// masterOfPET falls back as torchrun does: to this machine for one node. More
// nodes without an address use a rendezvous, which a bare binary cannot join.
func masterOfPET(r *reader, w *World) {
	hint := "start the trainer by torchrun --no_python, or set PET_MASTER_ADDR to node 0's address"
	if r.any("PET_RDZV_ENDPOINT", "PET_RDZV_BACKEND") {
		hint = "PET_RDZV_* asks for a rendezvous, which only torchrun can join: " + hint
	}
	masterElsewhere(r, w, "PET_MASTER_ADDR", hint)
}

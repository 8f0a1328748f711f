package launch

import (
	"fmt"
	"strconv"
)

// SourceEnv is RANK and WORLD_SIZE, as torchrun and PyTorchJob set them.
const SourceEnv Source = "env"

var torchrunFamily = family{
	source: SourceEnv, origin: "torchrun's RANK/WORLD_SIZE",
	claims: claimsByRankAndSize(envRankAndSize), rankAndSize: envRankAndSize,
	read: readEnv, master: masterRequired,
}

var envRankAndSize = [][2]string{{"RANK", "WORLD_SIZE"}}

// readEnv reads what torchrun sets for each process, and what PyTorchJob v1
// sets for each pod, where RANK is the pod's and LOCAL_RANK is absent.
func readEnv(r *reader) World {
	r.names = fieldNames{rank: "RANK", worldSize: "WORLD_SIZE", localRank: "LOCAL_RANK",
		localWorldSize: "LOCAL_WORLD_SIZE", nodeRank: "GROUP_RANK", nodes: "GROUP_WORLD_SIZE"}
	w := r.explicitRanks("RANK and WORLD_SIZE go together: set both, or start with torchrun")
	r.refusePodRank()
	w.deriveNodes()
	w.Nodes = r.optional(r.names.nodes, w.Nodes)
	w.NodeRank = r.optional(r.names.nodeRank, w.NodeRank)
	return w
}

// explicitRanks reads the four rank fields from r.names. Without a local rank
// the process is taken to be alone on its machine, as in a PyTorchJob pod.
func (r *reader) explicitRanks(hint string) World {
	v := r.names
	set, _ := r.first(v.rank, v.worldSize, v.localRank, v.localWorldSize)
	w := World{
		Rank: r.required(v.rank, set, hint),
		Size: r.required(v.worldSize, set, hint),
	}
	var local, size bool
	w.LocalRank, local = r.integer(v.localRank)
	w.LocalSize, size = r.integer(v.localWorldSize)
	switch {
	case !local && !size:
		w.LocalSize = 1
	case !size && w.Size == 1:
		w.LocalSize = 1
	case !size:
		r.fail(v.localWorldSize, "", fmt.Sprintf("is not set although %s is", v.localRank),
			"set it to the number of ranks on this machine")
	case !local && w.LocalSize > 1:
		r.fail(v.localRank, "", fmt.Sprintf("is not set although %s is", v.localWorldSize),
			"each process of a machine needs its own, counted from 0")
	}
	return w
}

// refusePodRank catches a PyTorchJob with several processes per pod: RANK is
// the pod's there, so that all processes of a pod would have the same one.
// nprocPerNode "auto" is 1 in PyTorchJob's WORLD_SIZE, so it is let through.
func (r *reader) refusePodRank() {
	const name = "PET_NPROC_PER_NODE"
	text, set := r.text(name)
	if !set || r.any("LOCAL_RANK") {
		return
	}
	if n, err := strconv.Atoi(text); err == nil && n > 1 {
		r.fail(name, text, "means several processes in this pod, and LOCAL_RANK is not set",
			"RANK is the pod's rank here: start the trainer by torchrun --no_python inside the pod, or use one process per pod")
	}
}

// masterRequired is for RANK and WORLD_SIZE: torch's env:// itself requires both variables.
func masterRequired(r *reader, w *World) {
	if w.Size == 1 {
		masterLoopback(r, w)
		return
	}
	if w.MasterAddr == "" {
		r.fail("MASTER_ADDR", "", "is not set although RANK is",
			"set it to the host name or IP address of rank 0's machine, the same on every rank, or start with torchrun")
	}
	if w.MasterPort == 0 {
		r.fail("MASTER_PORT", "", "is not set although RANK is",
			"set it to a free port of rank 0's machine, the same on every rank, or start with torchrun")
	}
}

package launch

import (
	"fmt"
	"strconv"
)

func claimsFlags(e environment) bool {
	return e.any(flagRank, flagWorldSize, flagLocalRank, flagLocalWorldSize)
}

func readFlags(r *reader) World {
	r.vars = variables{rank: flagRank, worldSize: flagWorldSize,
		localRank: flagLocalRank, localWorldSize: flagLocalWorldSize}
	w := r.explicitRanks("give both --rank and --world-size, or neither")
	w.derivePlace()
	return w
}

func claimsEnv(e environment) bool { return e.any("RANK", "WORLD_SIZE") }

// readEnv reads what torchrun sets for each process, and what PyTorchJob v1
// sets for each pod, where RANK is the pod's and LOCAL_RANK is absent.
func readEnv(r *reader) World {
	r.vars = variables{rank: "RANK", worldSize: "WORLD_SIZE", localRank: "LOCAL_RANK",
		localWorldSize: "LOCAL_WORLD_SIZE", nodeRank: "GROUP_RANK", nodes: "GROUP_WORLD_SIZE"}
	w := r.explicitRanks("RANK and WORLD_SIZE go together: set both, or start with torchrun")
	r.refusePodRank()
	w.derivePlace()
	w.Nodes = r.optional(r.vars.nodes, w.Nodes)
	w.NodeRank = r.optional(r.vars.nodeRank, w.NodeRank)
	return w
}

// explicitRanks reads the four rank fields from r.vars. Without a local rank
// the process is taken to be alone on its machine, as in a PyTorchJob pod.
func (r *reader) explicitRanks(hint string) World {
	v := r.vars
	set, _ := r.first(v.rank, v.worldSize, v.localRank, v.localWorldSize)
	w := World{
		Rank:      r.required(v.rank, set, hint),
		WorldSize: r.required(v.worldSize, set, hint),
	}
	var local, size bool
	w.LocalRank, local = r.integer(v.localRank)
	w.LocalWorldSize, size = r.integer(v.localWorldSize)
	switch {
	case !local && !size:
		w.LocalWorldSize = 1
	case !size && w.WorldSize == 1:
		w.LocalWorldSize = 1
	case !size:
		r.fail(v.localWorldSize, "", fmt.Sprintf("is not set although %s is", v.localRank),
			"set it to the number of ranks on this machine")
	case !local && w.LocalWorldSize > 1:
		r.fail(v.localRank, "", fmt.Sprintf("is not set although %s is", v.localWorldSize),
			"each process of a machine needs its own, counted from 0")
	}
	return w
}

// refusePodRank catches a PyTorchJob with several processes per pod: RANK is
// the pod's there, so that all processes of a pod would take the same one.
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

// readSingle is rank 0 of 1. Its notes are for the user who meant more.
func readSingle(r *reader) World {
	r.vars = variables{rank: "RANK", worldSize: "WORLD_SIZE", localRank: "LOCAL_RANK", localWorldSize: "LOCAL_WORLD_SIZE",
		nodeRank: "GROUP_RANK", nodes: "GROUP_WORLD_SIZE"}
	if text, ok := r.text("LOCAL_RANK"); ok && text != "0" {
		r.fail("RANK", "", fmt.Sprintf("is not set although LOCAL_RANK is %s", text),
			"several processes would each train alone: set RANK and WORLD_SIZE, or start with torchrun")
	}
	w := World{WorldSize: 1, LocalWorldSize: 1, Nodes: 1}
	switch {
	case inSlurmJob(r.environment):
		w.Note = "this is a shell of a Slurm job and not a task of srun: use srun to start one rank per task"
		w.RunID = slurmJobID(r.environment)
	case r.any("MASTER_ADDR", "MASTER_PORT"):
		w.Note = "MASTER_ADDR or MASTER_PORT is set and ignored, as RANK and WORLD_SIZE are not"
	}
	return w
}

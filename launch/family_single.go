package launch

import "fmt"

// SourceSingle is no launcher: rank 0 of 1.
const SourceSingle Source = "single"

// singleFamily ignores MASTER_ADDR and MASTER_PORT: left over from another job, they would make
// the process wait for a rank 0 elsewhere.
var singleFamily = family{
	source: SourceSingle, origin: "no launcher", claims: func(environment) bool { return true },
	read: readSingle, ignoresMaster: true, master: masterLoopback,
}

// readSingle returns rank 0 of 1. Its notes are for a user who meant more.
func readSingle(r *reader) World {
	r.names = fieldNames{rank: "RANK", worldSize: "WORLD_SIZE", localRank: "LOCAL_RANK", localWorldSize: "LOCAL_WORLD_SIZE",
		nodeRank: "GROUP_RANK", nodes: "GROUP_WORLD_SIZE"}
	if text, ok := r.text("LOCAL_RANK"); ok && text != "0" {
		r.fail("RANK", "", fmt.Sprintf("is not set although LOCAL_RANK is %s", text),
			"several processes would each train alone: set RANK and WORLD_SIZE, or start with torchrun")
	}
	w := World{Size: 1, LocalSize: 1, Nodes: 1}
	switch {
	case slurmJobID(r.environment) != "":
		w.Note = "this is a shell of a Slurm job and not a task of srun: use srun to start one rank per task"
		w.RunID = slurmJobID(r.environment)
	case r.any("MASTER_ADDR", "MASTER_PORT"):
		w.Note = "MASTER_ADDR or MASTER_PORT is set and ignored, as RANK and WORLD_SIZE are not"
	}
	return w
}

package launch

import "fmt"

func claimsOpenMPI(e environment) bool {
	return e.any("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")
}

// readOpenMPI leaves OMPI_COMM_WORLD_NODE_RANK alone: despite the name it is
// the process's index on its node over all jobs, and not the node's index.
func readOpenMPI(r *reader) World {
	r.vars = variables{rank: "OMPI_COMM_WORLD_RANK", worldSize: "OMPI_COMM_WORLD_SIZE",
		localRank: "OMPI_COMM_WORLD_LOCAL_RANK", localWorldSize: "OMPI_COMM_WORLD_LOCAL_SIZE"}
	w := r.mpiRanks()
	w.RunID, _ = r.text("PMIX_NAMESPACE")
	return w
}

func claimsPMI(e environment) bool {
	return e.any("PMI_RANK", "PMI_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE")
}

// readPMI reads one of three spellings whole: MVAPICH2's, or PMI_RANK with
// Hydra's MPI_LOCAL* or with Cray PALS' PMI_LOCAL_*.
func readPMI(r *reader) World {
	switch {
	case r.any("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"):
		r.vars = variables{rank: "MV2_COMM_WORLD_RANK", worldSize: "MV2_COMM_WORLD_SIZE",
			localRank: "MV2_COMM_WORLD_LOCAL_RANK", localWorldSize: "MV2_COMM_WORLD_LOCAL_SIZE"}
	case r.any("PMI_LOCAL_RANK"):
		r.vars = variables{rank: "PMI_RANK", worldSize: "PMI_SIZE",
			localRank: "PMI_LOCAL_RANK", localWorldSize: "PMI_LOCAL_SIZE"}
	default:
		r.vars = variables{rank: "PMI_RANK", worldSize: "PMI_SIZE",
			localRank: "MPI_LOCALRANKID", localWorldSize: "MPI_LOCALNRANKS"}
	}
	return r.mpiRanks()
}

// mpiRanks demands the local rank from more than one rank: guessing 0 would put
// all processes of a machine on its first GPU.
func (r *reader) mpiRanks() World {
	v := r.vars
	r.vars.nodeRank, r.vars.nodes = v.rank, v.worldSize
	set, _ := r.first(v.rank, v.worldSize)
	hint := fmt.Sprintf("mpirun sets %s and %s for each process: start with it, or unset both", v.rank, v.worldSize)
	w := World{Rank: r.required(v.rank, set, hint), WorldSize: r.required(v.worldSize, set, hint)}
	if w.WorldSize == 1 {
		w.LocalRank, w.LocalWorldSize = r.optional(v.localRank, 0), r.optional(v.localWorldSize, 1)
	} else {
		hint = "this launcher does not say the local rank: give --rank, --world-size, --local-rank and --local-world-size"
		w.LocalRank = r.required(v.localRank, set, hint)
		w.LocalWorldSize = r.required(v.localWorldSize, set, hint)
	}
	w.derivePlace()
	return w
}

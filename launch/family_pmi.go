package launch

import "fmt"

// SourcePMI is PMI_* or MV2_COMM_WORLD_*, set by Hydra, PALS and MVAPICH2.
const SourcePMI Source = "pmi"

var pmiFamily = family{
	source: SourcePMI, origin: "the MPI launcher's PMI_*/MV2_*",
	claims: claimsByRankAndSize(pmiRankAndSize), rankAndSize: pmiRankAndSize,
	read: readPMI, master: masterOfMPI,
}

var pmiRankAndSize = [][2]string{{"MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"}, {"PMI_RANK", "PMI_SIZE"}}

// readPMI reads one of three spellings whole: MVAPICH2's, or PMI_RANK with
// Hydra's MPI_LOCAL* or with Cray PALS' PMI_LOCAL_*.
func readPMI(r *reader) World {
	switch {
	case r.any("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"):
		r.names = fieldNames{rank: "MV2_COMM_WORLD_RANK", worldSize: "MV2_COMM_WORLD_SIZE",
			localRank: "MV2_COMM_WORLD_LOCAL_RANK", localWorldSize: "MV2_COMM_WORLD_LOCAL_SIZE"}
	case r.any("PMI_LOCAL_RANK"):
		r.names = fieldNames{rank: "PMI_RANK", worldSize: "PMI_SIZE",
			localRank: "PMI_LOCAL_RANK", localWorldSize: "PMI_LOCAL_SIZE"}
	default:
		r.names = fieldNames{rank: "PMI_RANK", worldSize: "PMI_SIZE",
			localRank: "MPI_LOCALRANKID", localWorldSize: "MPI_LOCALNRANKS"}
	}
	return r.mpiRanks()
}

// mpiRanks demands the local rank from more than one rank: guessing 0 would put
// all processes of a machine on its first GPU.
func (r *reader) mpiRanks() World {
	v := r.names
	r.names.nodeRank, r.names.nodes = v.rank, v.worldSize
	set, _ := r.first(v.rank, v.worldSize)
	hint := fmt.Sprintf("mpirun sets %s and %s for each process: start with it, or unset both", v.rank, v.worldSize)
	w := World{Rank: r.required(v.rank, set, hint), Size: r.required(v.worldSize, set, hint)}
	if w.Size == 1 {
		w.LocalRank, w.LocalSize = r.optional(v.localRank, 0), r.optional(v.localWorldSize, 1)
	} else {
		hint = "this launcher does not set the local rank: set RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE for each process instead"
		w.LocalRank = r.required(v.localRank, set, hint)
		w.LocalSize = r.required(v.localWorldSize, set, hint)
	}
	w.deriveNodes()
	return w
}

func masterOfMPI(r *reader, w *World) {
	masterElsewhere(r, w, "MASTER_ADDR",
		"mpirun does not set the machine of rank 0: pass MASTER_ADDR and MASTER_PORT to every rank, as in mpirun -x MASTER_ADDR=host or -genv MASTER_ADDR host")
}

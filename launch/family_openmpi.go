package launch

// SourceOpenMPI is OMPI_COMM_WORLD_*, set by OpenMPI's mpirun.
const SourceOpenMPI Source = "openmpi"

var openMPIFamily = family{
	source: SourceOpenMPI, origin: "OpenMPI's OMPI_COMM_WORLD_*",
	claims: claimsByRankAndSize(openMPIRankAndSize), rankAndSize: openMPIRankAndSize,
	read: readOpenMPI, master: masterOfMPI,
}

var openMPIRankAndSize = [][2]string{{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}}

// readOpenMPI leaves OMPI_COMM_WORLD_NODE_RANK alone: despite the name it is
// the process's index on its node over all jobs, and not the node's index.
func readOpenMPI(r *reader) World {
	r.names = fieldNames{rank: "OMPI_COMM_WORLD_RANK", worldSize: "OMPI_COMM_WORLD_SIZE",
		localRank: "OMPI_COMM_WORLD_LOCAL_RANK", localWorldSize: "OMPI_COMM_WORLD_LOCAL_SIZE"}
	w := r.mpiRanks()
	w.RunID, _ = r.text("PMIX_NAMESPACE")
	return w
}

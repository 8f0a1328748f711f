package launch

// A family is one launcher's variables and how to read them. Each has a file of its own,
// family_<name>.go. To add one: write that file, put it into families below, and give
// samples in families_test.go a process of it. TestFamilies says what is missing.
type family struct {
	source Source
	// origin is how messages call the family: "rank 1 of 4 from Slurm's SLURM_PROCID/SLURM_NTASKS".
	origin string
	// claims reports whether the launcher started this process.
	claims func(environment) bool
	// rankAndSize lists the pairs of variables that give the rank and the world size. Slurm
	// compares its own with those of the families after it: see family.startsDaemons.
	rankAndSize [][2]string
	// startsDaemons marks a launcher by which another one may start its daemons on other
	// machines. Their ranks inherit this family's variables, which then describe the daemon.
	startsDaemons bool
	// read fills the rank fields of the World and the reader's names.
	read func(*reader) World
	// masterAddr and masterPort are the family's own variables, if it has any, for the address
	// of rank 0. They win over MASTER_ADDR and MASTER_PORT.
	masterAddr, masterPort string
	// ignoresMaster: MASTER_ADDR and MASTER_PORT do not count.
	ignoresMaster bool
	// master completes the address of rank 0 where no variable gives it.
	master func(*reader, *World)
}

// families are in the order in which Detect tries them. The innermost launcher tends to come
// first: torchrun inside srun, and both inside a Kubernetes pod. The last one claims every process.
var families = []family{torchrunFamily, petFamily, slurmFamily, openMPIFamily, pmiFamily, singleFamily}

// familyOf returns the family that claims the process: the last one if no other does.
func familyOf(env environment, families []family) family {
	for i, f := range families {
		if f.claims(env) && !(f.startsDaemons && startedByDaemon(env, f, families[i+1:])) {
			return f
		}
	}
	return families[len(families)-1]
}

// startedByDaemon reports whether the launcher of a family in others started the process, and
// outer only its daemon. On the other machines of a Slurm allocation, mpirun starts its daemons
// by srun. The ranks inherit the daemon's SLURM_PROCID, of which there is one per machine. With
// srun --mpi=pmi2 both families are set too, and give the same rank and size.
func startedByDaemon(env environment, outer family, others []family) bool {
	rank, size := outer.ranks(env)
	for _, f := range others {
		for _, names := range f.rankAndSize {
			innerRank, hasRank := env.text(names[0])
			innerSize, hasSize := env.text(names[1])
			if hasRank && hasSize && (innerRank != rank || innerSize != size) {
				return true
			}
		}
	}
	return false
}

// ranks returns the rank and the world size as the first set variables of rankAndSize say.
func (f family) ranks(env environment) (rank, size string) {
	var ranks, sizes []string
	for _, names := range f.rankAndSize {
		ranks, sizes = append(ranks, names[0]), append(sizes, names[1])
	}
	_, rank = env.first(ranks...)
	_, size = env.first(sizes...)
	return rank, size
}

// claimsByRankAndSize claims a process that has any variable of these pairs.
func claimsByRankAndSize(pairs [][2]string) func(environment) bool {
	return func(env environment) bool {
		for _, names := range pairs {
			if env.any(names[:]...) {
				return true
			}
		}
		return false
	}
}

func (f family) detect(env environment) (World, error) {
	r := &reader{environment: env, source: f.source}
	w := f.read(r)
	w.Source = f.source
	w.RestartCount = r.optional("TORCHELASTIC_RESTART_COUNT", w.RestartCount)
	if id, ok := r.text("TORCHELASTIC_RUN_ID"); ok {
		w.RunID = id
	}
	w.ErrorFile, _ = r.text(errorFileVariable)
	if r.err == nil {
		r.explicitMaster(&w, f)
		f.master(r, &w)
	}
	if r.err != nil {
		return World{}, r.err
	}
	if err := w.check(r.names); err != nil {
		return World{}, err
	}
	return w, nil
}

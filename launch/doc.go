// Package launch answers "which rank am I" and is a good worker to whatever
// started the process: torchrun, a Kubernetes training job, Slurm, an MPI
// mpirun, or no launcher.
//
// # For a trainer
//
// Four calls, all of them before Python starts:
//
//	ctx, stop := launch.WithSIGTERM(context.Background())
//	defer stop()
//	if err := launch.DieWithParent(); err != nil { ... }  // never outlive the launcher
//	world, err := launch.Detect(launch.Options{})          // who am I
//	if err := world.Export(); err != nil { ... }           // set the variables for Python
//	...
//	os.Exit(launch.Fail(train(ctx, world)))                // report to the launcher
//
// They must come first because CPython copies the environment into os.environ
// when it starts: torch.distributed.init_process_group("env://") never sees a
// variable that Go sets later.
//
// # How the rank is found
//
// Detect tries one family of variables after the other and uses the first that
// is set. World.Source names it:
//
//	RANK WORLD_SIZE     (env)      torchrun, Kubeflow PyTorchJob, Ray, by hand
//	PET_*               (pet)      Kubeflow Trainer v2, made for torchrun as the entry point
//	SLURM_*             (slurm)    srun
//	OMPI_COMM_WORLD_*   (openmpi)  OpenMPI's mpirun
//	MV2_*, PMI_*        (pmi)      MVAPICH2, MPICH, Intel MPI, Cray PALS
//	nothing             (single)   rank 0 of 1
//
// A family gives the rank, the world size and the local rank alone: Detect never
// mixes two families, and returns an *Error that names the missing variable of a
// family that is incomplete. To go on to the next family would train N models
// of one rank each, or hang the ranks that did find their peers.
//
// MASTER_ADDR and MASTER_PORT are not part of a family. They are the address of
// rank 0, which Slurm and MPI do not set, so a user may give them beside any
// family.
//
// An empty variable counts as unset, so that `RANK= ./trainer` works as in any
// shell.
//
// # Exit codes
//
//	0        done
//	1..125   failed; Fail writes the reason to torchelastic's error file
//	143      stopped by SIGTERM at a safe point (128+15)
//
// Codes above 125 are those of shells and signals. A Go panic exits with 2 and
// leaves no error file: recover in main and pass the error to Fail.
//
// # For a launcher
//
// Start starts a Job: N ranks of a command on this machine under torchrun's
// contract. It stops all of them when one fails. Spawn starts one and waits for
// it, as `pyhook train -n N` does. A Job has one node and no restarts: for more,
// use torchrun or a scheduler.
//
// # What must not be here
//
// No Python, no cgo, no collectives. This package knows the environment and
// processes, and nothing of gradients or hooks.
package launch

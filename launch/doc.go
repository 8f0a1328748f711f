// Package launch answers "which rank am I" and is a good worker to whatever
// started the process: torchrun, a Kubernetes training job, Slurm, an MPI
// mpirun, or nothing at all.
//
// # For a trainer
//
// Four calls, all of them before Python starts:
//
//	ctx, stop := launch.WithSIGTERM(context.Background())
//	defer stop()
//	if err := launch.DieWithParent(); err != nil { ... }  // never outlive the launcher
//	world, err := launch.Detect(launch.Options{})          // who am I
//	if err := world.Export(); err != nil { ... }           // tell Python
//	...
//	os.Exit(launch.Fail(train(ctx, world)))                // tell the launcher why
//
// They must come first because CPython copies the environment into os.environ
// when it starts: torch.distributed.init_process_group("env://") never sees a
// variable that Go sets later.
//
// # How the rank is found
//
// Detect looks for one family of variables after the other and takes the first
// that is there:
//
//	Options.Flags       --rank, --world-size, ...
//	RANK WORLD_SIZE     torchrun, Kubeflow PyTorchJob, Ray, by hand
//	PET_*               Kubeflow Trainer v2, made for torchrun as the entry point
//	SLURM_*             srun
//	OMPI_COMM_WORLD_*   OpenMPI's mpirun
//	MV2_*, PMI_*        MVAPICH2, MPICH, Intel MPI, Cray PALS
//	nothing             rank 0 of 1
//
// A family decides the rank, the world size and the local rank alone: two
// families are never mixed, and one that is there by half is an *Error that
// names the missing variable. A silent fall to the next family would train N
// models of one rank each, or hang the ranks that did find their peers.
//
// MASTER_ADDR and MASTER_PORT stand apart. They say where to meet and not who
// one is, and Slurm and MPI do not set them, so a user may give them beside any
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
// Codes above 125 belong to the shell and to signals, and a Go panic exits 2,
// which says nothing: recover in main and hand the error to Fail.
//
// # For a launcher
//
// Spawn starts N ranks of a command on this machine under torchrun's contract,
// and stops all of them when one fails. It is what `pyhook train -n N` uses. It
// has one node and no restarts: for those, use torchrun or a scheduler.
//
// # What must not be here
//
// No Python, no cgo, no collectives. This package knows the environment and
// processes, and nothing of gradients or hooks.
package launch

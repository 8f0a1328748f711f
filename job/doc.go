// Package job is the one way into a data-parallel job: a call joins it, one makes the hook, one
// wraps the parameters.
//
//	func main() { job.Main(train) }
//
//	func train(ctx context.Context, j *job.Job) error {
//		hook, err := j.Hook(ctx, "fp16") // or "my_hooks.py:my_hook"
//		...
//		model, err := j.DDP(ctx, params, ddp.Options{Hook: hook})
//		...
//		return nil
//	}
//
// Main finds the launcher (torchrun, Slurm, MPI, Kubernetes, or none), exports the environment,
// starts Python, makes the process group, runs train, waits for the other ranks so that rank 0,
// which serves the store, leaves last, closes everything in the right order, and ends the process as
// launchers expect it. Without a launcher it is alone, or with Config.Ranks starts so many ranks of
// this program on this machine. Join is for programs with a main of their own.
//
// Nothing here is needed: launch.Detect, pyhook.Start, Runtime.InitProcessGroup, NewHook and
// ddp.NewReducer, in this order, are what a Job does, and Job.Runtime, TorchGroup, Worker and World
// give them out.
//
// # The end
//
// What ends train, and what the launcher gets to see:
//
//	nil                   exit code 0, when all ranks are there; what is wrong with one is an error here
//	an error              printed, with the Python traceback where the step failed, on stderr; in
//	                      torchelastic's error file; exit code 1
//	an error after        143, and no error file: the launcher stops the ranks, and this one is not
//	SIGTERM               why
//	a panic               printed with its stack, in the error file, exit code 2; nothing is closed
//
// A panic of another goroutine than train's own is Go's: exit code 2 and no error file.
package job

// Package worker runs Python hooks in a process of their own, one a rank, behind the
// interfaces that package ddp takes. Whatever a hook does to that process (a crash,
// an abort of gloo, os._exit, an endless loop, all memory used), the trainer gets an
// *Error, keeps its gradients, and can Restart the worker.
//
//	func main() { job.Config{Worker: &worker.Config{Timeout: time.Minute}}.Main(train) }
//
//	func train(ctx context.Context, j *job.Job) error {
//		hook := job.Must(j.Hook(ctx, "powersgd")) // in the worker, which is this same program
//		reducer := job.Must(j.DDP(ctx, parameters, ddp.Options{Hook: hook, Rollback: true}))
//		for range steps {
//			job.Check(ddp.Retry(ctx, reducer, func() error { // the step again, where a worker failed
//				...
//				_, err := reducer.Wait(ctx)
//				return err
//			}))
//		}
//		return nil
//	}
//
// Without package job main calls Main first, and then Start, Worker.NewHook and Worker.Group.
//
// A worker that fails fails the step of all ranks. Retry (by Reducer.Recover) starts every rank's worker
// again, puts the hook's state back to what it was before the step, and does the step again. Who calls
// hooks without a Reducer calls Restart on every rank where NeedsRestart is true of the error.
//
//	trainer                            worker: this program again
//	Hook, Group  ── messages, socket ──▶  pyhook.Runtime, the group, the hooks
//	buckets      ══ the same memory ═══   buckets
//
// A bucket that NewBuffer made, as those of ddp are, lies in memory that both map: no
// byte of it is copied.
//
// Gradients on a device (experimental; CUDA's was never run) stay there, if this process has torch and
// that can share the device's memory with another process, as it can CUDA's; else NewReducer says so.
// Backend is then one of the device, too:
//
//	rt, err := pyhook.Start(ctx, pyhook.Config{}) // makes and shares the buckets
//	w.UseRuntime(rt)                              // before NewHook; by job: j.Worker().UseRuntime(rt)
//
// The host waits for the device before a call is sent, and in the worker before its result is: so
// WaitStream waits for the hooks, too. A result in other memory, or of another dtype, is copied to the
// bucket as soon as it is there, as a hook that works in place writes it: a step that fails at another
// bucket leaves it there, unless ddp.Options.Rollback is set. What a hook writes to a parameter's data
// on a device is the trainer's.
//
// Hooks and their states live in the worker, so they are named by specs and made
// there; Go functions and objects of pyhook.Runtime stay behind. What a hook writes
// to a parameter's data is seen by the trainer only if NewBuffer made that.
//
// This package handles processes and shared memory; package pyhook, in the worker, calls the hooks
// and checks their results. Linux only.
package worker

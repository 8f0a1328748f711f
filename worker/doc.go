// Package worker runs Python hooks in a process of their own, one a rank, behind the
// interfaces that package ddp takes. Whatever a hook does to that process (a crash,
// an abort of gloo, os._exit, an endless loop, all memory used), the trainer gets an
// *Error, keeps its gradients, and can Restart the worker.
//
//	func main() {
//		worker.Main() // a worker is this same program
//		w, _ := worker.Start(ctx, worker.Config{Timeout: time.Minute})
//		hook, _ := w.NewHook(ctx, "powersgd", worker.HookConfig{State: worker.State{Spec: "powersgd"}, SnapshotEvery: 100})
//		reducer, _ := ddp.NewReducer(ctx, parameters, ddp.Options{Group: w.Group(), Hook: hook})
//		for step := 0; step < steps; step++ {
//			...
//			if _, err := reducer.Wait(ctx); worker.NeedsRestart(err) { // true on every rank
//				recovery, err := w.Restart(ctx)
//				step = int(recovery.Restored[0]) - 1 // with the weights of that many steps
//			}
//		}
//	}
//
// Only the rank whose worker failed sees an *Error. The others see that they lost a peer, a
// *c10d.Error that is c10d.ErrPeer; NeedsRestart is true for both. The example has the
// whole loop, which every rank runs.
//
//	trainer                            worker: this program again
//	Hook, Group  ── messages, socket ──▶  pyhook.Runtime, the group, the hooks
//	             ── calls, mailbox ────▶  (a page of shared memory)
//	buckets      ══ the same memory ═══   buckets
//
// A bucket that NewBuffer made, as those of ddp are, lies in memory that both map: no
// byte of it is copied. A call goes through a page that both look at for some
// microseconds before they sleep.
//
// Hooks and their states live in the worker, so they are named by specs and made
// there; Go functions and objects of pyhook.Runtime stay behind. What a hook writes
// to a parameter's data is seen by the trainer only if NewBuffer made that.
//
// This package knows processes and shared memory. What a hook is, and what is wrong
// with its results, package pyhook knows, on the worker's side. Linux only.
package worker

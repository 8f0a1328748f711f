// Package pyhook runs unmodified Python DDP communication hooks from Go: it is
// torch's c10d::PythonCommHook for a Go trainer.
//
//	rt, err := pyhook.Start(ctx, pyhook.Config{})  // each err is looked at
//	group, err := rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "gloo"})
//	hook, err := rt.NewHook(ctx, "fp16", pyhook.HookConfig{})
//	future, err := hook.RunHook(ctx, bucket)             // calls hook(state, bucket)
//	value, err := future.Wait(ctx)
//	reduced, err := hook.ParseHookResult(bucket, value)  // for most hooks: the bucket's own memory
//
// Package job does the first three, and what else a rank of a job owes its launcher.
//
// The package knows hooks, buckets, futures and process groups, and nothing of
// training: package ddp turns parameters into buckets and drives the hooks, and
// most trainers use that.
//
// Every function may be called from any goroutine. Nobody needs to know of the
// GIL or of OS threads. Memory: what a function returns with a Close method
// belongs to the caller; Close is idempotent, and a forgotten object is closed
// by the garbage collector.
//
// Errors of hooks are *c10d.Error: they name the hook, the rank, the bucket and
// what to do, and errors.Is tells the kinds apart (c10d.ErrRaised, c10d.ErrNotFuture,
// c10d.ErrShort, ...). errors.As finds the *PythonError with its traceback.
package pyhook

// Package cbridge embeds CPython in a Go process.
//
// It loads libpython at run time (no Python headers at build), so that one
// binary serves CPython 3.9 to 3.15 and any virtual environment, conda or
// system interpreter. All C that touches CPython is here, each source with a header of
// its own: also that of tensors (dlpack.c) and of calls of hooks (invoke.c, which knows
// futures and interruptions; bucket_call.c, which knows the arguments of DDP's hooks).
// Their Go side is in packages tensorconv and pyhook.
//
//	Go goroutine ──cgo──▶ enter (attach this OS thread's kept thread state)
//	                      one operation of CPython
//	                      leave (detach)
//
// Callers never meet the GIL, thread states or runtime.LockOSThread: every
// method may be called from any goroutine. A blocking Python call occupies the
// calling goroutine's thread and nothing else.
//
// Ownership: an *Object owns one Python reference until Close, which is
// idempotent and safe while other goroutines use the object. A forgotten
// Object is closed by the garbage collector; LiveObjects counts the open ones,
// and tests assert that it returns to its start.
package cbridge

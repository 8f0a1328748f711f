package c10d

import (
	"context"
	"time"

	"pyhook/tensor"
)

// CommHook reduces a bucket of gradients over the ranks: c10d::CommHookInterface
// (torch/csrc/distributed/c10d/comm.hpp). What a hook can do besides, it says by the interfaces
// below.
type CommHook interface {
	// RunHook starts the reduction of b and returns the future of its result. It does not wait.
	// The memory of b must stay until the future is done.
	RunHook(ctx context.Context, b *GradBucket) (*Future[Result], error)
	// ParseHookResult makes the reduced gradients of the result of a future of b: a flat tensor of
	// as many elements as the bucket, whose dtype may differ from the bucket's. The caller closes
	// it. It writes nothing.
	ParseHookResult(b *GradBucket, r Result) (*tensor.Tensor, error)
}

// SparseHook is a CommHook that also takes sparse buckets (GradBucket.Sparse), whose gradient it may
// change in place.
type SparseHook interface {
	CommHook
	// ParseSparseHookResult is ParseHookResult for a sparse bucket: each row once, sorted. The
	// caller closes the gradient.
	ParseSparseHookResult(b *GradBucket, r Result) (*SparseGradient, error)
}

// ChainedHook is a hook whose callbacks run when its caller says so: a call's before the next call,
// as on NCCL, or in another order that is the same on every rank, so that buckets overlap where
// callbacks in gloo's order would mix up the ranks.
type ChainedHook interface {
	CommHook
	// RunHookChained is RunHook, but nothing of the call's futures completes before the Chain is
	// advanced (or the hook itself waits for it).
	RunHookChained(ctx context.Context, b *GradBucket) (*Future[Result], Chain, error)
}

// IndependentHook is a ChainedHook that knows whether its buckets may overlap so.
type IndependentHook interface {
	ChainedHook
	// Independent reports whether callbacks of the hook use nothing that its call for another
	// bucket changes, so that this may come before them. An error says that the hook declares it
	// in a way that is not known.
	Independent() (bool, error)
}

// Chain is the collectives of one hook call, level by level: level 0 are those that the call itself
// issued, level 1 those of their callbacks, and so on. One goroutine at a time; every rank must
// advance its chains in the same order.
type Chain interface {
	// Advance waits for the collectives of the current level and runs their callbacks, in order,
	// on the calling goroutine. It returns whether those issued more. Failures go to the hook's
	// future; the error is the context's, ErrClosed, or, when there are no more, ErrCollective.
	Advance(ctx context.Context) (more bool, err error)
	// Close drops the chain. What is not advanced to its end fails with ErrClosed, without its
	// callbacks, when the collectives that are under way have ended. Idempotent.
	Close()
}

// DrainingChain is a Chain that can wait for the collectives of the current level without running
// their callbacks.
type DrainingChain interface {
	Chain
	Drain(ctx context.Context) error
}

// UnfinishedChain is a Chain that knows what it left when it was closed early.
type UnfinishedChain interface {
	Chain
	// Unfinished returns, after Close, the future of the collectives that it gave up and that may
	// still write to the bucket; nil: there are none.
	Unfinished() *Future[Result]
}

// NamedHook is a hook with a name for errors.
type NamedHook interface{ Name() string }

// DescribedHook is a hook that says what must be alike on all ranks of it: ddp.NewReducer compares the
// texts of those hooks that have one.
type DescribedHook interface{ Description() string }

// InCallHook is a hook that knows whether it issues collectives only when it is called, so that its
// buckets may overlap on any backend.
type InCallHook interface{ CollectivesOnlyInCall() bool }

// ComplexHook is a hook that may not be able to reduce complex parameters. An error says why.
type ComplexHook interface{ ComplexParameters() error }

// DeviceHook is a hook that may not be able to take what is on a device.
type DeviceHook interface {
	// CheckDevice says, before the first step, why the hook cannot take buckets in that memory, or
	// the values of these parameters. It may try, and wait for the device.
	CheckDevice(m DeviceMemory, params []*Parameter) error
}

// CheckingHook is a hook that can turn the failure of a collective that it issues, and never looks
// at, into an error of its call's future: ErrCollective. A chained call does so always.
type CheckingHook interface{ CheckCollectives() error }

// TracedHook is a hook that reports the collectives that it issues.
type TracedHook interface {
	// TraceCollectives has record called for every collective that the hook issues from now on and
	// whose future it takes. record runs on whichever thread completes the collective, possibly
	// holding the GIL: it must be short and call no Python. nil ends it. Not while a call is
	// inside.
	TraceCollectives(record func(Collective)) error
}

// Collective is one that a hook issued, from when the hook took its future to when that was done.
type Collective struct {
	Bucket     int
	Start, End time.Time
	Bytes      int64 // of the tensors that it left on this rank; 0 if it failed
}

// BufferAllocator is a CommHook or a ProcessGroup that wants buckets in memory of its own, where it
// need not copy them. Package ddp asks the hook first.
type BufferAllocator interface {
	// NewBuffer returns a flat tensor of n zeros, with the capacity of tensor.New. The caller
	// closes it.
	NewBuffer(dtype tensor.DType, n int64) (*tensor.Tensor, error)
}

// ThreadBound is a hook whose calls belong on one OS thread: what its code made there (a sqlite3
// connection, an asyncio loop, a threading.local's values) is of use on that thread only.
// ddp.Reducer calls such a hook and its chains there.
type ThreadBound interface {
	// BindThread chooses the thread for one caller.
	BindThread() BoundThread
}

// BoundThread is an OS thread for one caller's hook calls. The thread may have more to do than that:
// when the caller has nothing to do and Waiting is true, it calls Serve.
type BoundThread interface {
	// Run, once, runs loop on the thread, and lets go of that when loop returns. wake is called, on
	// any goroutine, when Waiting may have become true.
	Run(wake, loop func())
	// Waiting reports whether there is other work for the thread.
	Waiting() bool
	// Serve does that work. By loop.
	Serve()
	// Wait is f.Wait(ctx), and does that work meanwhile. By loop.
	Wait(ctx context.Context, f *Future[Result]) (Result, error)
}

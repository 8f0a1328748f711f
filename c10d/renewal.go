package c10d

import "context"

// RenewableGroup is a ProcessGroup that can be made anew, in the same processes, after a step that
// failed on some rank.
type RenewableGroup interface {
	ProcessGroup
	// Renewal returns what retires and renews the group. Groups that have the same one, compared
	// with ==, are retired and renewed together.
	Renewal() Renewal
}

// Renewal retires and renews the process groups of this rank that belong together: a hook may issue
// collectives on each of them, so a step that failed may have left collectives in each. For any
// goroutine.
type Renewal interface {
	// Ranks returns how many ranks must call Renew together.
	Ranks() int
	// Generation counts the Renews that succeeded: on every rank alike.
	Generation() int
	// Retire ends the groups on this rank. Collectives in which other ranks wait for this one then
	// fail at once, and no later collective can meet one from before. Until Renew, what is issued
	// on the groups fails with ErrOutOfStep. Retire does not wait, neither for collectives that are
	// under way nor for hook calls that are inside. Idempotent.
	Retire()
	// Retired reports whether the groups are of no use until Renew: after Retire, or since what they
	// live in has ended, as a worker does that crashes.
	Retired() bool
	// Renew makes the groups anew; whatever holds one of them on this rank, as hooks' states do,
	// holds the new one afterwards. A collective of all ranks, each of which it retires first. On an
	// error the groups stay retired, and all ranks may call it again. After it nothing that was issued on
	// the former groups writes to tensors of this rank.
	Renew(ctx context.Context) error
}

// RestorableHook is a CommHook whose state can go back to what it was before a step.
type RestorableHook interface {
	CommHook
	// HasState reports whether there is a state that a step may change: not so where it is None, or
	// a process group.
	HasState() bool
	// Snapshot keeps a copy of the state as it is now, in place of the copy before. Not while a call
	// is inside, or a future of one is pending.
	Snapshot(ctx context.Context) error
	// Restore puts the state back to the last Snapshot, on which the state then no longer depends.
	Restore(ctx context.Context) error
}

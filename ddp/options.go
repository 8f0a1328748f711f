package ddp

import (
	"fmt"
	"math"
	"reflect"

	"pyhook/c10d"
)

// Order says how the hooks of several buckets may be under way at once.
type Order int

const (
	// OrderAuto is OrderOverlapped where that is safe: on nccl, whose callbacks run in one
	// order on every rank, and for hooks that issue collectives only when they
	// are called. Else it is OrderOrdered for hooks that say that they bear it
	// (c10d.IndependentHook: those of PyTorch's that were proven to, and those
	// whose attribute pyhook_order is "ordered"), and OrderSerial for the others.
	OrderAuto Order = iota
	// OrderSerial is NCCL's order, for which most hooks are written: all callbacks of
	// a bucket's hook call have run, in order, on one thread, before the next
	// bucket's hook is called. So a hook may keep in its state what its callbacks
	// need. The call's future need not be done by then: a hook may complete all
	// of them in the last bucket's call. The future of a hook that is no
	// c10d.ChainedHook is waited for. The backward pass goes on meanwhile.
	OrderSerial
	// OrderOverlapped never waits, and callbacks run when they will: on gloo, on its
	// threads, in an order of each rank's own. Hooks that issue collectives in
	// callbacks, as PowerSGD does, hang or abort there, as in stock DDP.
	OrderOverlapped
	// OrderOrdered overlaps buckets and runs their callbacks in an order fixed by
	// level and bucket, the same on every rank: see c10d.ChainedHook. A hook
	// whose callbacks use what a later bucket's call changes gives wrong
	// gradients, alike on all ranks and without an error.
	OrderOrdered
)

// String names the order as flags and reports do.
func (o Order) String() string {
	switch o {
	case OrderAuto:
		return "auto"
	case OrderSerial:
		return "serial"
	case OrderOverlapped:
		return "overlapped"
	case OrderOrdered:
		return "ordered"
	}
	return fmt.Sprintf("Order(%d)", int(o))
}

// Layout says which parameters share a bucket, and where in it they are. Results
// are those of torch's DistributedDataParallel bit for bit only on its layout:
// with three ranks and more, gloo's order of summation depends on it.
type Layout int

const (
	// LayoutFixed makes the buckets once, in the reverse order of the parameters.
	LayoutFixed Layout = iota
	// LayoutRebuilt is PyTorch's: the first step has one bucket of each dtype, in
	// the order of the parameters, the bucket of the last parameter first. After it
	// the buckets are made anew, in the order in which rank 0's gradients became
	// ready, and stay so. See Gradient. With UnusedFind there are full buckets from
	// the first step and they are not made anew, with StaticGraph that is done after
	// the second step: as in PyTorch.
	LayoutRebuilt
)

// String names the constant.
func (l Layout) String() string {
	switch l {
	case LayoutFixed:
		return "LayoutFixed"
	case LayoutRebuilt:
		return "LayoutRebuilt"
	}
	return fmt.Sprintf("Layout(%d)", int(l))
}

// Agreement says how the ranks agree on whether a step counts.
type Agreement int

const (
	// AgreementAuto is AgreementVote, but AgreementNone with SkipVerify, with which NewReducer talks
	// to no other rank.
	AgreementAuto Agreement = iota
	// AgreementVote has every rank vote at the end of each step: results are written on all ranks or
	// on none, and Wait's error is the same one everywhere. A rank that fails is heard at once, also
	// by ranks whose collectives wait for it. Each rank keeps a TCP connection to rank 0 for it. All
	// ranks must be pyhook's Reducers: docs/performance.md has what a step pays.
	AgreementVote
	// AgreementNone saves the vote, and is for jobs with plain Python ranks. Then a step can be good
	// on some ranks and an error on others, whose models from there on differ; ranks that wait for
	// one that failed hear nothing before their collectives time out or its process ends; and
	// Recover is not to be had: a rank whose step failed refuses the next one.
	AgreementNone
)

// PyTorch's defaults (kDefaultBucketBytesCap, kDefaultFirstBucketBytes), MiB.
const (
	DefaultBucketCapMB   = 25.0
	DefaultFirstBucketMB = 1.0
)

// Options of a Reducer. Group is needed; the rest has defaults. Where the ranks vote NewReducer refuses
// options that differ over the ranks and must not, by their names and on every rank: all but
// CheckFinite, LateWrites, GroupMemory, Stream and Timeline. Of Hook it compares the kind, by
// c10d.DescribedHook.
type Options struct {
	// Group is what the gradients are reduced over. Where several Reducers share one, one of them at a
	// time has a step under way, from its first mark to the end of its Wait: the others' marks are
	// ErrOtherStep. Each calls its hook when its own buckets are complete, and on each rank their
	// collectives would come in another order.
	Group c10d.ProcessGroup
	// Hook reduces the buckets; it averages (with a hook the reducer never
	// divides). nil: PyTorch's way without a hook, which is a sum of gradients
	// that were divided before: multiplied by 1/size while ReadyFrom copies them,
	// divided by size where they are in the bucket (reducer.cpp,
	// mark_variable_ready_dense).
	Hook c10d.CommHook
	// BucketCapMB is the size in MiB at which a bucket is full; 0: 25. +Inf makes
	// one bucket of each dtype, but for its first one.
	BucketCapMB float64
	// FirstBucketMB is that of the first bucket of each dtype, small so that
	// communication starts early; 0: 1, or BucketCapMB if that is smaller.
	FirstBucketMB float64
	// Buckets, if given, are the buckets themselves, in place of those two: the
	// indices of the parameters that share one, first bucket first, the same on every
	// rank. With LayoutRebuilt they are those of the steps after the first.
	Buckets [][]int
	Order   Order
	Layout  Layout
	Unused  Unused
	// StaticGraph: every step uses every parameter as often as the first one did.
	// A parameter may then be marked several times a step, as one that layers
	// share; the first step counts the marks and is reduced at its end. Parameters
	// that it does not use get a gradient of zero in every step.
	StaticGraph bool
	Agreement   Agreement
	// Join allows for uneven inputs: see Reducer.Join.
	Join bool
	// Stream is the trainer's stream, on the device of the parameters' gradients where that is not the
	// CPU: see Reducer.WaitStream. 0: the device's default one.
	Stream c10d.Stream
	// GroupMemory has the group (a c10d.DeviceGroup) also keep the gradients that are on the CPU: by
	// torch's operations, as on any other device, and not by this package's own. The results are the
	// same, and later.
	GroupMemory bool
	// Timeline, if given, is drawn on: each bucket's compute (its first to its last
	// gradient), in flight (the hook's return to its future's completion) and
	// copy-back, the hook calls and callbacks, Wait, and the collectives of Python
	// hooks, also of those in workers (c10d.TracedHook). Of gradients on a device it is
	// what the host does: how long it takes to enqueue, and not how long the device works.
	Timeline *Timeline
	// Rollback: a Wait that fails leaves every gradient as the trainer wrote it, also
	// in the bucket's memory (Gradient), whatever the hooks did to their buckets or
	// still do. Hooks then work on a copy of each bucket: twice the memory, and two
	// copies a step. Recover then also puts the hook's
	// state back to what it was before the step that failed.
	Rollback bool
	// CheckFinite: a NaN or an infinity in a bucket's result is c10d.ErrNonFinite,
	// which names the first. Every result is read once more. A rank whose result
	// differs from the others' may be the only one that fails.
	CheckFinite bool
	// LateWrites looks for hooks that write to their bucket after its future was done,
	// when the result may be read already: ErrLateWrite, of Wait in that step or in
	// the next one, or of Reducer.LateWrites. As Rollback, and two checksums a step.
	// Always on in programs that are built with the tag pyhookdebug. Not for sparse
	// buckets.
	LateWrites bool
	// DigestEvery so many steps, and in the first one, the ranks compare their parameters' values
	// (Parameter.Data, which all must have, contiguous), as they are when the step begins, bit for bit.
	// Where any differ the step fails on every rank: a *StepError that is ErrValues, whose cause is a
	// *ParameterError with the name of the first that differs and the ranks that have it alike; nothing
	// is written. The next step may begin, and compares again: end the job, or give all ranks the same
	// values first (BroadcastParameters). All values are read, while the backward pass goes on, and the
	// vote carries 32 bytes a parameter: docs/performance.md. Ranks in Join are left out. 0: never. It
	// needs the vote.
	DigestEvery int
	// SkipVerify, the same on every rank, leaves out the comparison of the ranks' parameter lists,
	// and, with AgreementAuto, the vote.
	SkipVerify bool
}

// check returns what is wrong with an option by itself.
func (o Options) check() error {
	const noSize = "%v: give a size in MiB, or 0 for the default"
	wrong := func(name, is string, value any) error { return fmt.Errorf("Options.%s is "+is, name, value) }
	for _, one := range []struct {
		name     string
		is, last int
	}{
		{"Order", int(o.Order), int(OrderOrdered)},
		{"Layout", int(o.Layout), int(LayoutRebuilt)},
		{"Unused", int(o.Unused), int(UnusedFind)},
		{"Agreement", int(o.Agreement), int(AgreementNone)},
	} {
		if one.is < 0 || one.is > one.last {
			return wrong(one.name, "%d, which is none of its constants", one.is)
		}
	}
	if size := o.BucketCapMB; math.IsNaN(size) || size < 0 {
		return wrong("BucketCapMB", noSize, size)
	}
	if size := o.FirstBucketMB; math.IsNaN(size) || size < 0 {
		return wrong("FirstBucketMB", noSize, size)
	}
	if o.DigestEvery < 0 {
		return wrong("DigestEvery", "%d: give a number of steps, or 0 for never", o.DigestEvery)
	}
	if isNilPointer(o.Hook) {
		return wrong("Hook", "a nil %T: give the hook that its constructor returned without an error, or none at all", o.Hook)
	}
	return nil
}

// isNilPointer reports whether an interface holds a nil pointer, as an unchecked constructor returns.
func isNilPointer(v any) bool {
	value := reflect.ValueOf(v)
	return value.Kind() == reflect.Pointer && value.IsNil()
}

// votes reports whether the ranks of a group vote.
func (o Options) votes() bool {
	return o.Agreement == AgreementVote || o.Agreement == AgreementAuto && !o.SkipVerify
}

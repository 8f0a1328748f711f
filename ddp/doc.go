// Package ddp is what a data-parallel trainer needs around a communication
// hook: torch's c10d::Reducer (torch/csrc/distributed/c10d/reducer.cpp) in Go.
//
// It knows gradients and not Python: hooks come as c10d.CommHook, the ranks
// as c10d.ProcessGroup, and a Go hook needs no Python at all.
//
//	reducer, _ := ddp.NewReducer(ctx, parameters, ddp.Options{Group: group, Hook: hook})
//	for step := range steps {
//	    backward(func(i int) { reducer.Ready(i) })  // gradients are in reducer.Gradient(i)
//	    reducer.Wait(ctx)                           // now they are the reduced ones
//	    optimise()
//	}
//
// Parameters are put into buckets by size, last ones first. A bucket whose
// gradients are all ready goes to the hook while the backward pass goes on, on
// a goroutine of the reducer, strictly in bucket order on every rank.
//
// Options has the rest of DistributedDataParallel: its layout of buckets, unused
// parameters, static graphs, uneven inputs; NoSync accumulates gradients and
// BroadcastParameters starts all ranks with the same values. Sparse gradients, as
// of embedding tables, come by ReadySparse and go out by SparseGradient.
// LoggingData tells sizes and times under DDP's names.
//
// A step that fails writes nothing and says where it failed (StepError). On one
// rank the next one can go on; on several it is refused (OutOfStepError), since
// other ranks may be in the failed one still. Wait's context bounds the waiting
// for other ranks.
package ddp

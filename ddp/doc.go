// Package ddp is what a data-parallel trainer needs around a communication
// hook: torch's c10d::Reducer (torch/csrc/distributed/c10d/reducer.cpp) in Go.
//
// It knows gradients and not Python: hooks come as c10d.CommHook, the ranks
// as c10d.ProcessGroup, and a Go hook needs no Python at all.
//
//	reducer, err := ddp.NewReducer(ctx, parameters, ddp.Options{Group: group, Hook: hook, Rollback: true})
//	for range steps {
//	    err = ddp.Retry(ctx, reducer, func() error {
//	        if err := backward(reducer.Ready); err != nil { // gradients are in reducer.Gradient(i)
//	            return err
//	        }
//	        _, err := reducer.Wait(ctx)                     // now they are the reduced ones
//	        return err
//	    })
//	    if err != nil { return err }                    // the same on every rank
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
// A step is one transaction over all ranks: they vote at its end, and results are written on all of
// them or on none. A step that fails says where it did (StepError), on every rank alike; the group is
// retired then, and every later use is an OutOfStepError until all ranks have called Recover. Wait's
// context bounds the waiting for other ranks.
package ddp

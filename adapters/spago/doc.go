// Package spagoddp makes a spago model (github.com/nlpodyssey/spago) data-parallel over processes
// and machines, with PyTorch's communication hooks or Go's.
//
//	s, err := spagoddp.Wrap(ctx, model, ddp.Options{Group: group, Hook: hook})
//	defer s.Unwrap()
//	for _, batch := range batches {
//	    err := s.Backward(losses(batch)...)  // was ag.Backward: hooks start while it still goes back
//	    err = s.Wait(ctx)                    // gradients are the mean over the ranks
//	    err = optimizer.Optimize()           // the same on every rank
//	}
//
// After Wrap the values and the gradients of the model's parameters live in pyhook's memory:
// nothing is copied for a reduction, and hooks that read or step weights work on the model's own.
// Backward counts, from the losses down, how many gradients each parameter will get, and gives a
// parameter to the Reducer when the last one was added.
//
// # Order of parameters
//
// Every rank must have the parameters in one order. Struct fields and slices have one. Maps have
// none: parameters in them are taken in the order of their keys. A nn.ParamsTraverser whose order
// changes from call to call, or that gives none, is refused by name, and so is embedding.Model: it
// gives the rows that were used on this rank alone.
//
// # What stays each rank's own
//
// Buffers (nn.Buffer, such as running means) and the optimiser's state are not exchanged.
// Parameters that need no gradient get rank 0's values in Wrap and are left alone from then on.
//
// # Same bits
//
// spago adds up gradients in the order in which goroutines come, so that two runs of stock spago
// differ in the last bits where a tensor has three uses or more, unless GOMAXPROCS is 1. The
// reduced gradients are the same bits on every rank all the same, and so are the parameters: see
// Sync.Digest.
package spagoddp

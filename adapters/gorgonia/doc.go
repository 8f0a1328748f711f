// Package gorgoniaddp makes a Gorgonia trainer (gorgonia.org/gorgonia) data-parallel over processes
// and machines, with PyTorch's communication hooks or Go's.
//
//	grads, err := gorgonia.Grad(cost, learnables...)
//	vm := gorgonia.NewTapeMachine(g, gorgonia.BindDualValues(learnables...))
//	sync, err := gorgoniaddp.New(ctx, learnables, ddp.Options{Group: group, Hook: hook})
//	defer sync.Close()
//	solver := sync.Solver(ctx, gorgonia.NewAdamSolver())
//	for _, batch := range batches {
//	    gorgonia.Let(x, batch.X)
//	    err := vm.RunAll()
//	    err = solver.Step(gorgonia.NodesToValueGrads(learnables)) // reduces, then steps
//	    vm.Reset()
//	}
//
// New gives every rank rank 0's values. The solver's Step reduces the gradients over the ranks, so
// that every rank steps by their mean; when that fails, it steps nothing and drops the gradients.
//
// A tape machine runs all of a graph, gradients last: they are ready at once, and what overlaps is
// the copying and the hooks of buckets. Gradients and values stay in Gorgonia's own memory, which
// hooks see the values in (bucket.parameters()); gradients are copied to the buckets and back.
//
// The module requires a go4.org/unsafe/assume-no-moving-gc that knows today's Go: without it any
// program with Gorgonia panics as it starts (gorgonia's issues 523 and 531).
package gorgoniaddp

// Package flat makes a trainer data-parallel whose parameters and gradients are Go slices:
// []float32, []float64, or []uint16 that are the bits of float16. It knows no training library and
// needs no Python; with a hook of pyhook.Runtime.NewHook gradients are reduced by any of PyTorch's.
//
//	sync, err := flat.New(ctx, []flat.Param[float32]{{Name: "w", Value: &w, Grad: &dw}}, ddp.Options{Group: group, Hook: hook})
//	defer sync.Close()
//	for range steps {
//	    backward()                 // fills dw
//	    err := sync.Step(ctx)      // dw is the mean over the ranks
//	    optimise()                 // w from dw, the same on every rank
//	}
//
// What a trainer gets: all ranks start with rank 0's values; a model that differs on one rank is an
// error on every rank, with the parameter's name, before the first step; a step that fails leaves
// every gradient as it was; Digest says whether the ranks still have the same values, bit for bit.
//
// A Param points to the trainer's own slice variables, which are read anew at every step. So a
// trainer may put other memory there, by append perhaps, and what is reduced is never the former
// memory's. Step and Ready copy gradients with Go's copy, pin nothing and allocate nothing but what
// ddp.Reducer does. Values are pinned once, in New, since hooks see them (bucket.parameters()):
// where a hook would read the values' former memory, the step fails with ErrMoved.
package flat

// Package gomlxddp makes a GoMLX trainer (github.com/gomlx/gomlx) data-parallel over processes and
// machines, with PyTorch's communication hooks or Go's.
//
//	opt := gomlxddp.Wrap(optimizers.Adam().Done())
//	trainer := train.NewTrainer(backend, root, model, loss, opt, nil, nil)
//	loop := train.NewLoop(trainer)
//	err := opt.Attach(ctx, loop, ddp.Options{Group: group, Hook: hook})
//	defer opt.Close()
//	_, err = loop.RunSteps(gomlxddp.Shard(dataset, rank, size), 1000)
//
// GoMLX computes gradients and updates in one graph. With Wrap the training graph keeps its gradients
// in variables (under /ddp_grads, which checkpoints leave out). After each step the loop copies them to
// the buckets, reduces them, and runs a second graph: the wrapped optimiser's update, with the reduced
// gradients, and after it the functions of train.AddPerStepUpdateGraphFn. In a world of one all
// variables have the bits that GoMLX alone gives them.
//
// # What is alike
//
// All ranks begin with rank 0's values of the model's variables, frozen ones and running means too,
// and of the optimiser's. The parameters are the trainable variables that the first training graph
// uses, by name. Optimizer.Digest compares them.
//
// # What stays each rank's own
//
// Random numbers (dropout), metrics, and from the first step on the running means of batch
// normalization: see Optimizer.BroadcastBuffers.
//
// # Memory
//
// GoMLX's values and gradients are in other memory after each step. So gradients are copied to the
// buckets and back; with a hook the values are copied to where it sees them, in each step, and back
// what it has changed.
package gomlxddp

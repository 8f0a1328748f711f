package gomlxddp

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/tensor"
)

// Sync reduces the gradients of the training step that has just run, and updates the variables by
// them. It does nothing if there are none: after a step that only accumulates. On an error, which is
// ddp.Reducer.Wait's, nothing was updated on any rank, and the gradients are still there: after
// ddp.Reducer.Recover on every rank Sync does the same step again. ddp.Retry around Sync does both. If
// the update itself fails the error says so, and all later calls return it.
func (o *Optimizer) Sync(ctx context.Context) error {
	if o.broken != nil {
		return o.broken
	}
	p, err := o.pending()
	if err != nil || p == nil {
		return err
	}
	if err := o.reduce(ctx, p); err != nil {
		return err
	}
	var params []int
	if o.opts.Unused == ddp.UnusedFind {
		for i := range o.params.vars {
			if o.reducer.Used(i) {
				params = append(params, i)
			}
		}
	} else {
		for _, g := range p.grads {
			params = append(params, g.param)
		}
	}
	if err := o.storeHooked(); err != nil {
		return o.breakOff(err)
	}
	if err := o.update(p, params); err != nil {
		return o.breakOff(err)
	}
	return o.breakOff(o.applied())
}

// breakOff notes, unless err is nil, that this rank is not as the others are any more.
func (o *Optimizer) breakOff(err error) error {
	if err != nil {
		o.broken = fmt.Errorf("gomlxddp, rank %d: the gradients are reduced, but this rank could not update its variables, which the others did: %w", o.opts.Group.Rank(), err)
	}
	return o.broken
}

// reduce reduces the gradients, in the Reducer's buckets.
func (o *Optimizer) reduce(ctx context.Context, p *plan) error {
	failed := o.readHooked()
	for _, g := range slices.Backward(p.grads) { // as buckets begin with the last, their hooks run meanwhile
		if failed == nil {
			failed = o.ready(g)
		}
	}
	if failed != nil {
		return o.leave(ctx, failed)
	}
	_, err := o.reducer.Wait(ctx)
	return err
}

// ready copies a gradient into its bucket.
func (o *Optimizer) ready(g gradient) error {
	to, err := tensor.RawBytes(o.reducer.Gradient(g.param))
	if errors.Is(err, tensor.ErrClosed) {
		return ddp.ErrClosed
	}
	if err == nil {
		err = g.read(to)
	}
	if err != nil {
		return fmt.Errorf("gomlxddp: the gradient of %s: %w", o.params.vars[g.param].name(), err)
	}
	return o.reducer.Ready(g.param)
}

// readHooked shows hooks, and the digests of Options.DigestEvery, the values as they are now.
func (o *Optimizer) readHooked() error {
	if o.opts.Hook == nil && o.opts.DigestEvery == 0 {
		return nil
	}
	return o.params.read()
}

// storeHooked gives variables the values that a hook has set.
func (o *Optimizer) storeHooked() error {
	if o.opts.Hook == nil {
		return nil
	}
	return o.params.write()
}

// leave makes this rank's failure one of all ranks, and returns it as they see it.
func (o *Optimizer) leave(ctx context.Context, err error) error {
	if o.reducer == nil { // the others are, or will be, in begin
		return ddp.ShareError(ctx, o.opts.Group, err)
	}
	return o.reducer.Leave(ctx, err)
}

// Join is what a rank does that has no more data while others may have: see ddp.Reducer.Join, which
// needs Options.Join. Then it gives every rank the variables, and the inner optimiser's, of one that
// was in the last step. Every rank calls it at the end; a loop with Attach does. A rank must have
// done a step: else the error says so, on every rank.
func (o *Optimizer) Join(ctx context.Context) error {
	if o.reducer == nil {
		return ddp.ShareError(ctx, o.opts.Group, o.noBatch())
	}
	last, err := o.reducer.Join(ctx)
	if err != nil || last < 0 {
		return err
	}
	return broadcast(ctx, o.opts.Group, last, slices.Concat(o.params.vars, o.state), asTorch)
}

func (o *Optimizer) noBatch() error {
	return fmt.Errorf("gomlxddp, rank %d: the dataset gave no batch: give every rank one at least", o.opts.Group.Rank())
}

// Digest checks that the trained variables are the same bits on every rank: a collective, to call
// every so many steps. See ddp.VerifyValues. Before the first step it compares the trainable variables
// that have a value.
func (o *Optimizer) Digest(ctx context.Context) error {
	return together(ctx, o.opts.Group, o.trained(), asTorch, func(c *copies) error { return ddp.VerifyValues(ctx, o.opts.Group, c.list) })
}

// BroadcastBuffers gives every rank rank 0's values of the variables that the model uses and does not
// train, such as the running means of batch normalization, which are each rank's own otherwise: a
// collective, to call between steps, before an evaluation or a checkpoint.
func (o *Optimizer) BroadcastBuffers(ctx context.Context) error {
	return broadcast(ctx, o.opts.Group, 0, o.buffers, asTorch)
}

// Parameters are the trained variables as hooks see them, in the order of their names; none before
// the first step. They belong to o.
func (o *Optimizer) Parameters() []*c10d.Parameter {
	if o.params == nil {
		return nil
	}
	return slices.Clone(o.params.list)
}

// Reducer returns the Reducer, for its LoggingData, Buckets, Order and Recover: nil before the first
// step. It is closed with o.
func (o *Optimizer) Reducer() *ddp.Reducer { return o.reducer }

// Close frees the buckets. The group and the hook stay the caller's. Idempotent.
func (o *Optimizer) Close() {
	if o.reducer != nil {
		o.reducer.Close()
	}
	o.params.Close()
}

package ddp

import (
	"fmt"

	"pyhook/c10d"
)

// setOrder makes Options.Order what it comes to.
func (r *Reducer) setOrder() error {
	independent := false
	if h, ok := r.opts.Hook.(c10d.IndependentHook); ok {
		var err error
		if independent, err = h.Independent(); err != nil {
			return err
		}
	}
	if r.order = r.opts.Order; r.order == OrderAuto {
		r.order = chooseOrder(r.opts, independent)
	}
	if _, ok := r.opts.Hook.(c10d.ChainedHook); r.order == OrderOrdered && !ok {
		return fmt.Errorf("ddp, rank %d: Options.Order is OrderOrdered and the hook is no c10d.ChainedHook: use OrderAuto or OrderSerial", r.opts.Group.Rank())
	}
	// nccl ends the process, or the wait, when a collective fails.
	if h, ok := r.opts.Hook.(c10d.CheckingHook); ok && r.order == OrderOverlapped && r.opts.Group.Backend() != "nccl" {
		return h.CheckCollectives()
	}
	return nil
}

// chooseOrder is OrderAuto's rule. A hook may say that it issues collectives only
// when it is called. A backend of several ("cpu:gloo,cuda:nccl") reduces our
// CPU memory by another one than nccl.
func chooseOrder(opts Options, independent bool) Order {
	if opts.Group.Backend() == "nccl" {
		return OrderOverlapped
	}
	if h, ok := opts.Hook.(c10d.InCallHook); ok && h.CollectivesOnlyInCall() {
		return OrderOverlapped
	}
	if independent {
		return OrderOrdered
	}
	return OrderSerial
}

// chained says whether the reducer runs the hooks' callbacks.
func (r *Reducer) chained() bool { return r.order == OrderSerial || r.order == OrderOrdered }

package ddp

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pyhook/c10d"
	"pyhook/tensor"
)

// firstLayout is the parameters' indices by bucket in the first step.
func (r *Reducer) firstLayout() [][]int {
	n := len(r.params)
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	if r.opts.Layout == LayoutRebuilt {
		// DistributedDataParallel._ddp_init_helper: in the order of the parameters,
		// without a limit if they are to be made anew, and then the list reversed.
		var limits []int64
		if r.findUnused {
			if given := r.givenLayout(); given != nil {
				return given
			}
			limits = r.opts.limits()
		}
		layout := r.assignBuckets(order, limits, true)
		slices.Reverse(layout)
		return layout
	}
	if given := r.givenLayout(); given != nil {
		return given
	}
	// Gradients become ready from the last parameter to the first.
	slices.Reverse(order)
	return r.assignBuckets(order, r.opts.limits(), true)
}

// assignBuckets puts the parameters, taken in this order, into buckets.
func (r *Reducer) assignBuckets(order []int, limits []int64, sorted bool) [][]int {
	items := make([]Item, len(order))
	for k, i := range order {
		items[k] = Item{Len: elements(r.params[i]), DType: r.params[i].DType, Device: r.params[i].GradientDevice(), ExpectSparse: r.params[i].Sparse}
	}
	layout, _ := assign(items, limits, sorted)
	for _, indices := range layout {
		for k, at := range indices {
			indices[k] = order[at]
		}
	}
	return layout
}

// syncBucketIndices returns the buckets of the following steps if they are to be
// made anew now, else nil: Reducer::rebuild_buckets and sync_bucket_indices
// (reducer.cpp). Every rank takes rank 0's: two broadcasts, of the indices with
// the number of buckets behind them, and of the buckets' sizes.
func (r *Reducer) syncBucketIndices(s *step) ([][]int, error) {
	r.mu.Lock()
	n := len(r.params)
	if r.fixed || len(s.order) != n {
		r.mu.Unlock()
		return nil, nil
	}
	mine := r.givenLayout()
	if mine == nil {
		mine = r.assignBuckets(s.order, r.opts.limits(), false)
	}
	r.mu.Unlock()

	indices, sizes := make([]int32, 0, n+1), make([]int32, 0, n)
	for _, bucket := range mine {
		for _, i := range bucket {
			indices = append(indices, int32(i))
		}
		sizes = append(sizes, int32(len(bucket)))
	}
	group := r.opts.Group
	broadcast := func(t *tensor.Tensor) (*c10d.Future[*tensor.Tensor], error) { return group.Broadcast(s.ctx, t, 0) }
	indices, err := exchange(s.ctx, append(indices, int32(len(sizes))), broadcast)
	if err != nil {
		return nil, r.layoutError(err)
	}
	count := int(indices[n])
	if count < 1 || count > n {
		return nil, r.layoutError(fmt.Errorf("rank 0 says that there are %d buckets of %d parameters", count, n))
	}
	sizes, err = exchange(s.ctx, append(sizes, make([]int32, n)...)[:count], broadcast)
	if err != nil {
		return nil, r.layoutError(err)
	}
	layout, err := r.checkLayout(indices[:n], sizes)
	if err != nil {
		return nil, r.layoutError(err)
	}
	return layout, nil
}

func (r *Reducer) layoutError(err error) error {
	return fmt.Errorf("ddp, rank %d: the ranks did not agree on the buckets of the next steps: %w", r.opts.Group.Rank(), err)
}

// checkLayout makes buckets of what rank 0 sent, if they are buckets.
func (r *Reducer) checkLayout(indices, sizes []int32) (layout [][]int, err error) {
	seen := make([]bool, len(r.params))
	for _, size := range sizes {
		if size < 1 || int(size) > len(indices) {
			return nil, fmt.Errorf("rank 0 says that a bucket has %d parameters", size)
		}
		var bucket []int
		for _, i := range indices[:size] {
			if i < 0 || int(i) >= len(seen) || seen[i] {
				return nil, fmt.Errorf("rank 0 sent parameter %d, which is none or twice there", i)
			}
			if first := r.params[indices[0]]; r.params[i].DType != first.DType {
				return nil, fmt.Errorf("rank 0 put %s (%s) and %s (%s) into one bucket", first.Name, first.DType, r.params[i].Name, r.params[i].DType)
			}
			if first := r.params[indices[0]]; r.params[i].GradientDevice() != first.GradientDevice() {
				return nil, fmt.Errorf("rank 0 put %s (on %s) and %s (on %s) into one bucket", first.Name, first.GradientDevice(), r.params[i].Name, r.params[i].GradientDevice())
			}
			if size > 1 && r.params[i].Sparse {
				return nil, fmt.Errorf("rank 0 put %s, which is sparse, into a bucket with others", r.params[i].Name)
			}
			seen[i] = true
			bucket = append(bucket, int(i))
		}
		indices = indices[size:]
		layout = append(layout, bucket)
	}
	if len(indices) > 0 {
		return nil, errors.New("rank 0's buckets have not all parameters")
	}
	return layout, nil
}

// rebuildBucketsLocked, between two steps, makes the buckets anew
// and takes the gradients along.
func (r *Reducer) rebuildBucketsLocked(layout [][]int) error {
	r.fixed = true
	buckets, locators, err := r.makeBuckets(layout)
	if err != nil {
		return err
	}
	for _, b := range buckets {
		if b.sparse {
			continue // not in the bucket
		}
		var former []*tensor.Tensor
		for _, i := range b.params {
			former = append(former, r.viewLocked(i))
		}
		if err := b.memory.CopyAll(b.views, former); err != nil {
			for _, b := range buckets {
				b.close()
			}
			return err
		}
	}
	r.moved, r.buckets, r.locators = r.buckets, buckets, locators
	r.log.rebuilt = true
	return nil
}

// freeMovedLocked frees what relayout left in the step before.
func (r *Reducer) freeMovedLocked() {
	for _, b := range r.moved {
		b.free()
	}
	r.moved = nil
}

// exchange runs a collective on a tensor of values and returns what it holds
// then.
func exchange(ctx context.Context, values []int32, run func(*tensor.Tensor) (*c10d.Future[*tensor.Tensor], error)) ([]int32, error) {
	t, err := tensor.New(tensor.Int32, int64(len(values)))
	if err != nil {
		return nil, err
	}
	elements, err := tensor.Slice[int32](t)
	if err != nil {
		t.Close()
		return nil, err
	}
	copy(elements, values)
	future, err := run(t)
	if err != nil {
		t.Close()
		return nil, err
	}
	// If ctx ends first the collective goes on, and needs the memory.
	defer future.Close()
	defer func() { whenDone(future, t.Close) }()
	if _, err := future.Wait(ctx); err != nil {
		return nil, err
	}
	return slices.Clone(elements), nil
}

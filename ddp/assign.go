package ddp

import (
	"math"
	"slices"

	"pyhook/tensor"
)

// Item is what bucket assignment looks at of a parameter.
type Item struct {
	Len          int64 // elements
	DType        tensor.DType
	Device       tensor.Device
	ExpectSparse bool // its gradient is sparse: it gets a bucket of its own
}

// AssignBuckets puts items into buckets by size:
// c10d::compute_bucket_assignment_by_size (reducer.cpp) without tensor indices.
// Items of one dtype and device share buckets. limits are in bytes; each dtype
// and device uses them one after another and then the last one for ever. A
// bucket is full when it has reached its limit, so it may exceed it by one
// item. Without limits no bucket is ever full. It returns the items' indices by
// bucket, sorted by each bucket's smallest, and the limit of each bucket (0,
// PyTorch's kNoSizeLimit, for a sparse item's and where there are no limits).
func AssignBuckets(items []Item, limits []int64) (buckets [][]int, bucketLimits []int64) {
	return assign(items, limits, true)
}

// bucketKey is what items that share a bucket have in common.
type bucketKey struct {
	dtype  tensor.DType
	device tensor.Device
}

// openBucket is a key's bucket that is not full.
type openBucket struct {
	indices []int
	bytes   int64
	limit   int // index in limits
}

// assign is AssignBuckets or, if not sorted, what PyTorch does when it is given
// tensor indices, to rebuild: buckets stay in the order in which they were full,
// and then come those that are not, newest key first (that is the order in
// which libstdc++'s unordered_map lists two keys).
func assign(items []Item, limits []int64, sorted bool) (buckets [][]int, bucketLimits []int64) {
	type closed struct {
		indices []int
		limit   int64
	}
	unlimited := len(limits) == 0
	if unlimited {
		limits = []int64{math.MaxInt64}
	}
	var done []closed
	var order []bucketKey // maps have no order, and ranks must agree
	states := map[bucketKey]*openBucket{}
	for i, item := range items {
		if item.ExpectSparse {
			done = append(done, closed{[]int{i}, 0})
			continue
		}
		k := bucketKey{item.DType, item.Device}
		if k.device.Type == 0 { // the zero Device is the CPU
			k.device.Type = tensor.CPU
		}
		s, ok := states[k]
		if !ok {
			s = &openBucket{}
			states[k] = s
			order = append(order, k)
		}
		s.indices = append(s.indices, i)
		s.bytes += item.Len * int64(item.DType.Size())
		if s.bytes >= limits[s.limit] {
			done = append(done, closed{s.indices, limits[s.limit]})
			s.indices, s.bytes = nil, 0
			s.limit = min(s.limit+1, len(limits)-1)
		}
	}
	if !sorted {
		slices.Reverse(order)
	}
	for _, k := range order {
		if s := states[k]; len(s.indices) > 0 {
			done = append(done, closed{s.indices, limits[s.limit]})
		}
	}
	if sorted {
		slices.SortStableFunc(done, func(a, b closed) int { return slices.Min(a.indices) - slices.Min(b.indices) })
	}
	for _, c := range done {
		if unlimited {
			c.limit = 0
		}
		buckets = append(buckets, c.indices)
		bucketLimits = append(bucketLimits, c.limit)
	}
	return buckets, bucketLimits
}

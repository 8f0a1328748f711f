package hooks

import (
	"cmp"
	"slices"
)

// cooRows is a coalesced sparse gradient: keys rise, and each has width values.
type cooRows[T float32 | float64] struct {
	keys   []int64
	values []T
	width  int
}

func (r cooRows[T]) row(k int) []T { return r.values[k*r.width : (k+1)*r.width] }

// coalesce sorts rows that come in any order and adds up those of one key, in
// the order in which they come: Tensor.coalesce (SparseTensor.cpp,
// _coalesce_sparse_cpu).
func coalesce[T float32 | float64](keys []int64, values []T, width int) cooRows[T] {
	order := make([]int, len(keys))
	for k := range order {
		order[k] = k
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(keys[a], keys[b]) })
	in := cooRows[T]{keys, values, width}
	out := cooRows[T]{keys: make([]int64, 0, len(keys)), values: make([]T, 0, len(values)), width: width}
	for _, k := range order {
		if n := len(out.keys); n > 0 && out.keys[n-1] == keys[k] {
			addTo(out.row(n-1), in.row(k))
			continue
		}
		out.keys, out.values = append(out.keys, keys[k]), append(out.values, in.row(k)...)
	}
	return out
}

// plus is a + b. Each sum starts from zero, which makes +0 of a -0, and one with
// no rows at all is left out, as torch does (SparseTensorMath.cpp,
// add_out_sparse_contiguous).
func (r cooRows[T]) plus(b cooRows[T]) cooRows[T] {
	switch {
	case len(b.keys) == 0:
		return r
	case len(r.keys) == 0:
		return b
	}
	out := cooRows[T]{keys: make([]int64, 0, len(r.keys)+len(b.keys)), values: make([]T, 0, len(r.values)+len(b.values)), width: r.width}
	zeros := make([]T, r.width)
	for i, j := 0, 0; i < len(r.keys) || j < len(b.keys); {
		takeA := j == len(b.keys) || i < len(r.keys) && r.keys[i] <= b.keys[j]
		takeB := i == len(r.keys) || j < len(b.keys) && b.keys[j] <= r.keys[i]
		out.values = append(out.values, zeros...)
		sum := out.values[len(out.values)-r.width:]
		var key int64
		if takeA {
			key = r.keys[i]
			addTo(sum, r.row(i))
			i++
		}
		if takeB {
			key = b.keys[j]
			addTo(sum, b.row(j))
			j++
		}
		out.keys = append(out.keys, key)
	}
	return out
}

func addTo[T float32 | float64](sum, x []T) {
	for k := range sum {
		sum[k] += x[k]
	}
}

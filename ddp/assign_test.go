package ddp_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
	"pyhook/ddp"
	"pyhook/tensor"
)

func f32(n int64) ddp.Item { return ddp.Item{Len: n, DType: tensor.Float32} }
func f64(n int64) ddp.Item { return ddp.Item{Len: n, DType: tensor.Float64} }

func times(n int, items ...ddp.Item) []ddp.Item { return slices.Repeat(items, n) }

func TestAssignBuckets(t *testing.T) {
	sparse := ddp.Item{Len: 1, DType: tensor.Float32, ExpectSparse: true}
	onCUDA := ddp.Item{Len: 50, DType: tensor.Float32, Device: tensor.Device{Type: tensor.CUDA}}
	for _, c := range []struct {
		name    string
		items   []ddp.Item
		limits  []int64
		buckets [][]int
		used    []int64
	}{
		// test/distributed/test_c10d_common.py, ComputeBucketAssignmentTest
		{"PyTorch's test_single_limit_single_dtype", []ddp.Item{f32(100), f32(200), f32(100), f32(50)}, []int64{400},
			[][]int{{0}, {1}, {2}, {3}}, []int64{400, 400, 400, 400}},
		{"PyTorch's test_single_limit_multi_dtype", times(3, f32(50), f64(25)), []int64{400},
			[][]int{{0, 2}, {1, 3}, {4}, {5}}, []int64{400, 400, 400, 400}},
		{"PyTorch's test_multi_limit_single_dtype", times(4, f32(10)), []int64{40, 80},
			[][]int{{0}, {1, 2}, {3}}, []int64{40, 80, 80}},
		{"PyTorch's test_multi_limit_multi_dtype", times(3, f32(50), f64(25)), []int64{200, 400},
			[][]int{{0}, {1}, {2, 4}, {3, 5}}, []int64{200, 200, 400, 400}},
		{"a sparse item has a bucket of its own and does not close its neighbours'", []ddp.Item{f32(10), sparse, f32(10)}, []int64{1000},
			[][]int{{0, 2}, {1}}, []int64{1000, 0}},
		{"devices do not share buckets", times(2, f32(50), onCUDA), []int64{1000},
			[][]int{{0, 2}, {1, 3}}, []int64{1000, 1000}},
		{"the zero device is the CPU", []ddp.Item{f32(1), {Len: 1, DType: tensor.Float32, Device: tensor.Device{Type: tensor.CPU}}}, []int64{8},
			[][]int{{0, 1}}, []int64{8}},
		{"an item beyond the limit is not split", []ddp.Item{f32(1), f32(1000), f32(1)}, []int64{8},
			[][]int{{0, 1}, {2}}, []int64{8, 8}},
		{"items of no elements never fill a bucket", []ddp.Item{f32(0), f32(0), f32(2), f32(0)}, []int64{8},
			[][]int{{0, 1, 2}, {3}}, []int64{8, 8}},
		{"without limits there is a bucket for each dtype", times(2, f32(1<<40), f64(1<<40)), nil,
			[][]int{{0, 2}, {1, 3}}, []int64{0, 0}},
		{"nothing makes no buckets", nil, []int64{8}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 20 { // maps have no order
				buckets, used := ddp.AssignBuckets(c.items, c.limits)
				require.Equal(t, c.buckets, buckets)
				require.Equal(t, c.used, used)
			}
		})
	}
}

// Every index is in one bucket; a bucket stays below its limit without its last
// item; all but the last of a dtype reach it.
func TestBucketsOfRandomItemsKeepTheRules(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		items := make([]ddp.Item, 1+random.IntN(60))
		for i := range items {
			items[i] = ddp.Item{Len: random.Int64N(300), DType: tensor.DType(1 + random.IntN(4)), ExpectSparse: random.IntN(10) == 0}
		}
		limits := []int64{1 + random.Int64N(500), 1 + random.Int64N(3000)}
		buckets, used := ddp.AssignBuckets(items, limits)
		require.Len(t, used, len(buckets))
		var all []int
		last := map[tensor.DType]int{} // the last bucket of each dtype
		for b, indices := range buckets {
			all = append(all, indices...)
			require.True(t, slices.IsSorted(indices))
			if !items[indices[0]].ExpectSparse {
				last[items[indices[0]].DType] = b
			}
		}
		for b, indices := range buckets {
			checkBucket(t, items, indices, used[b], last[items[indices[0]].DType] == b)
		}
		slices.Sort(all)
		for i, index := range all {
			require.Equal(t, i, index, "seed %d", seed)
		}
		require.Len(t, all, len(items))
	}
}

func checkBucket(t *testing.T, items []ddp.Item, indices []int, limit int64, last bool) {
	t.Helper()
	first := items[indices[0]]
	if first.ExpectSparse {
		require.Len(t, indices, 1)
		require.Zero(t, limit)
		return
	}
	bytes := int64(0)
	for _, i := range indices {
		require.Less(t, bytes, limit)
		require.Equal(t, first.DType, items[i].DType)
		bytes += items[i].Len * int64(items[i].DType.Size())
	}
	require.True(t, last || bytes >= limit, "%d of %d bytes", bytes, limit)
}

func TestBucketsAreThoseOfTheInstalledPyTorch(t *testing.T) {
	module, err := rt.Import(t.Context(), "buckets")
	require.NoError(t, err)
	defer module.Close()
	answer, err := module.Call("cases", 300, 7)
	require.NoError(t, err)
	defer answer.Close()
	text, err := cbridge.As[string](answer)
	require.NoError(t, err)
	var cases []struct {
		Items   [][4]any
		Limits  []int64
		Buckets [][]int
		Used    []int64
	}
	require.NoError(t, json.Unmarshal([]byte(text), &cases))
	devices := map[any]tensor.Device{"cpu": {Type: tensor.CPU}, "meta": {Type: tensor.CUDA}}
	for i, c := range cases {
		items := make([]ddp.Item, len(c.Items))
		for k, item := range c.Items {
			dtype, err := tensor.ParseDType(fmt.Sprint(item[1]))
			require.NoError(t, err)
			items[k] = ddp.Item{Len: int64(item[0].(float64)), DType: dtype, Device: devices[item[2]], ExpectSparse: item[3].(bool)}
		}
		buckets, used := ddp.AssignBuckets(items, c.Limits)
		assert.Equal(t, c.Buckets, buckets, "case %d: %v, limits %v", i, c.Items, c.Limits)
		assert.Equal(t, c.Used, used, "case %d", i)
	}
}

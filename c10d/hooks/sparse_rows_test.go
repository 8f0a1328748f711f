package hooks

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Whole numbers add up to the same in any order.
func TestRowsAddUpByKey(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		width := random.IntN(4)
		want := map[int64][]float32{}
		total := cooRows[float32]{width: width}
		for range 1 + random.IntN(4) {
			var keys []int64
			var values []float32
			for range random.IntN(10) {
				key := random.Int64N(8)
				keys = append(keys, key)
				if want[key] == nil {
					want[key] = make([]float32, width)
				}
				for k := range width {
					x := float32(random.IntN(100) - 50)
					values = append(values, x)
					want[key][k] += x
				}
			}
			given := slices.Clone(values)
			part := coalesce(keys, values, width)
			assert.Equal(t, given, values, "what was given is not changed")
			total = total.plus(part)
		}
		assert.True(t, slices.IsSorted(total.keys))
		got := map[int64][]float32{}
		for k, key := range total.keys {
			got[key] = append(make([]float32, 0, width), total.row(k)...)
		}
		assert.Equal(t, want, got)
	}
}

// As torch's: the sum of two starts from zero, one with an empty one does not.
func TestTheSignOfZeroIsTorchs(t *testing.T) {
	negative := math.Copysign(0, -1)
	one := cooRows[float64]{[]int64{1}, []float64{negative}, 1}
	two := cooRows[float64]{[]int64{2}, []float64{5}, 1}
	assert.False(t, math.Signbit(one.plus(two).values[0]))
	assert.True(t, math.Signbit(one.plus(cooRows[float64]{width: 1}).values[0]))
	assert.True(t, math.Signbit(cooRows[float64]{width: 1}.plus(one).values[0]))
}

package digits

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func load(t testing.TB) Dataset {
	t.Helper()
	d, err := Load()
	require.NoError(t, err)
	return d
}

// rows returns a text for each digit, in the order of the sets.
func rows(sets ...Dataset) (texts []string) {
	for _, s := range sets {
		for i, y := range s.Y {
			texts = append(texts, fmt.Sprint(y, s.X[i*Features:(i+1)*Features]))
		}
	}
	return texts
}

func TestLoad(t *testing.T) {
	d := load(t)
	require.Equal(t, 1797, d.Len())
	require.Len(t, d.X, 1797*Features)
	counts := make([]int, Classes)
	for _, y := range d.Y {
		counts[y]++
	}
	// scikit-learn documents about 180 of each class.
	assert.Equal(t, []int{178, 182, 177, 183, 181, 182, 181, 179, 174, 180}, counts)
	assert.Equal(t, float32(5.0/16), d.X[2])
	assert.Equal(t, float32(0), slices.Min(d.X))
	assert.Equal(t, float32(1), slices.Max(d.X))
}

func TestDataset_Split(t *testing.T) {
	d := load(t)
	train, test := d.Split(7)
	assert.Equal(t, 359, test.Len())
	all := rows(train, test)
	slices.Sort(all)
	assert.Equal(t, slices.Sorted(slices.Values(rows(d))), all, "a partition")
	again, _ := d.Split(7)
	assert.Equal(t, train, again)
	other, _ := d.Split(8)
	assert.NotEqual(t, train.Y, other.Y)

	_, test = d.Split(1)
	sum := sha256.Sum256(test.Y)
	assert.Equal(t, "ab0d291335d9de1d", hex.EncodeToString(sum[:8]), "the same on every machine")
}

func TestDataset_Batches(t *testing.T) {
	d := load(t)
	t.Run("ranks take disjoint parts of the batch that one rank would take", func(t *testing.T) {
		const globalBatch = 60
		alone, err := d.Batches(9, 2, globalBatch, 0, 1)
		require.NoError(t, err)
		assert.Len(t, alone, 29)
		for _, world := range []int{2, 3, 4, 5} {
			ranks := make([][]Dataset, world)
			for rank := range world {
				ranks[rank], err = d.Batches(9, 2, globalBatch, rank, world)
				require.NoError(t, err)
				assert.Len(t, ranks[rank], len(alone))
				assert.Equal(t, globalBatch/world, ranks[rank][0].Len())
			}
			for step := range alone {
				var parts []Dataset
				for _, batches := range ranks {
					parts = append(parts, batches[step])
				}
				assert.Equal(t, rows(alone[step]), rows(parts...))
			}
		}
	})
	t.Run("no digit comes twice in an epoch, and epochs differ", func(t *testing.T) {
		first, err := d.Batches(1, 0, 64, 0, 1)
		require.NoError(t, err)
		all := rows(first...)
		slices.Sort(all)
		assert.Len(t, slices.Compact(all), 28*64)
		second, err := d.Batches(1, 1, 64, 0, 1)
		require.NoError(t, err)
		assert.NotEqual(t, first[0], second[0])
	})
	t.Run("they are the same on every machine", func(t *testing.T) {
		batches, err := d.Batches(1, 3, 64, 1, 4)
		require.NoError(t, err)
		assert.Equal(t, rows(d.pick([]int{187, 1006, 1680, 1622})), rows(batches[0])[:4])
	})
	t.Run("batches that cannot be equal are refused", func(t *testing.T) {
		for batch, world := range map[int]int{64: 3, 0: 1, 1800: 1} {
			_, err := d.Batches(0, 0, batch, 0, world)
			assert.Error(t, err, batch)
		}
	})
}

package overlap_test

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"pyhook/internal/overlap"
)

// Find finds what looking at each byte finds.
func TestFind(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	found := 0
	for range 20_000 {
		list := make([]overlap.Range, random.IntN(6))
		owners, shared := map[uintptr]int{}, false
		for i := range list {
			low := uintptr(random.IntN(40))
			list[i] = overlap.Range{Low: low, High: low + uintptr(random.IntN(8)), Of: random.IntN(4)}
			for at := low; at < list[i].High; at++ {
				before, taken := owners[at]
				shared = shared || taken && before != list[i].Of
				owners[at] = list[i].Of
			}
		}
		a, b, is := overlap.Find(list)
		require.Equal(t, shared, is, list)
		if is {
			require.Less(t, a, b)
			found++
		}
	}
	require.Greater(t, found, 1000)
}

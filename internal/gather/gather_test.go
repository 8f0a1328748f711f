package gather_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/transport/memgroup"
	"pyhook/internal/gather"
	"pyhook/internal/testutil"
)

func TestJSON(t *testing.T) {
	t.Run("values of different lengths", func(t *testing.T) {
		const size = 3
		groups := memgroup.New(size)
		var ranks sync.WaitGroup
		for rank := range size {
			ranks.Go(func() {
				all, err := gather.JSON(testutil.Soon(t), groups[rank], strings.Repeat("x", 100*rank))
				assert.NoError(t, err)
				assert.Equal(t, []string{"", strings.Repeat("x", 100), strings.Repeat("x", 200)}, all)
			})
		}
		ranks.Wait()
	})
	t.Run("a rank that is in another collective is named, and nothing is made for its number", func(t *testing.T) {
		groups := memgroup.New(2)
		var ranks sync.WaitGroup
		ranks.Go(func() {
			_, err := gather.JSON(testutil.Soon(t), groups[0], "mine")
			assert.ErrorContains(t, err, "rank 1 says that it sends 4294967295 bytes: the ranks are not in the same collective")
		})
		_, err := c10d.AllGatherBytes(testutil.Soon(t), groups[1], []byte{255, 255, 255, 255})
		require.NoError(t, err)
		ranks.Wait()
	})
	t.Run("what JSON has no form for is an error before anything is sent", func(t *testing.T) {
		_, err := gather.JSON(testutil.Soon(t), memgroup.New(2)[0], func() {})
		require.Error(t, err)
	})
}

package ddp_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

func layers() []*c10d.Parameter {
	return []*c10d.Parameter{
		{Name: "a.weight", Shape: []int64{3, 2}, DType: tensor.Float32},
		{Name: "a.bias", Shape: []int64{3}, DType: tensor.Float32},
		{Name: "scale", DType: tensor.Float64},
	}
}

func TestListsThatDifferAreSeenByEveryRank(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func([]*c10d.Parameter) []*c10d.Parameter
		first  string
		detail string
	}{
		{"one more", func(l []*c10d.Parameter) []*c10d.Parameter { return append(l, parameters(nil)...) },
			"p0", "rank 0 has 3 parameters and rank 1 has 4"},
		{"one less", func(l []*c10d.Parameter) []*c10d.Parameter { return l[:2] },
			"scale", "rank 0 has 3 parameters and rank 1 has 2"},
		{"none", func([]*c10d.Parameter) []*c10d.Parameter { return nil },
			"a.weight", "rank 0 has 3 parameters and rank 1 has 0"},
		{"name", func(l []*c10d.Parameter) []*c10d.Parameter { l[1].Name = "b"; return l },
			"a.bias", "parameter 1 is a.bias [3] float32 on rank 0 and b [3] float32 on rank 1"},
		{"shape", func(l []*c10d.Parameter) []*c10d.Parameter { l[0].Shape = []int64{2, 3}; return l },
			"a.weight", "parameter 0 is a.weight [3 2] float32 on rank 0 and a.weight [2 3] float32 on rank 1"},
		{"dtype", func(l []*c10d.Parameter) []*c10d.Parameter { l[2].DType = tensor.Float32; return l },
			"scale", "parameter 2 is scale [] float64 on rank 0 and scale [] float32 on rank 1"},
		{"order", func(l []*c10d.Parameter) []*c10d.Parameter { slices.Reverse(l); return l },
			"a.weight", "parameter 0 is a.weight [3 2] float32 on rank 0 and scale [] float64 on rank 1"},
		{"nil", func(l []*c10d.Parameter) []*c10d.Parameter { l[1] = nil; return l },
			"a.bias", "parameter 1 is a.bias [3] float32 on rank 0 and nil [] invalid on rank 1"},
	} {
		for _, size := range []int{2, 4} {
			t.Run(strconv.Itoa(size)+" ranks, "+c.name, func(t *testing.T) {
				groups := memoryGroups(size)
				onRanks(size, func(rank int) {
					list := layers()
					if rank == 1 || rank == 3 {
						list = c.change(list)
					}
					_, err := ddp.NewReducer(testutil.Soon(t), list, ddp.Options{Group: groups[rank]})
					assert.ErrorIs(t, err, ddp.ErrMismatch)
					var parameter *ddp.ParameterError
					if assert.ErrorAs(t, err, &parameter) {
						assert.Equal(t, rank, parameter.Rank)
						assert.Equal(t, []string{c.first}, parameter.Names)
						assert.Equal(t, c.detail, parameter.Detail)
						assert.NotEmpty(t, parameter.Hint)
					}
				})
			})
		}
	}
}

func TestEqualListsPass(t *testing.T) {
	for _, size := range []int{1, 2, 4} {
		groups := memoryGroups(size)
		onRanks(size, func(rank int) {
			list := layers()
			if rank == 1 {
				list[2].Shape = []int64{} // no dimensions, as nil
			}
			assert.NoError(t, ddp.VerifyParameters(testutil.Soon(t), groups[rank], list))
			assert.Equal(t, 1, groups[rank].next, "equal lists take one collective")
		})
	}
}

func TestTheGroupsErrorsPassThroughVerification(t *testing.T) {
	noLeaks(t, func() {
		groups := memoryGroups(2)
		groups[0].fail = errors.New("no network")
		err := ddp.VerifyParameters(testutil.Soon(t), groups[0], layers())
		require.ErrorIs(t, err, groups[0].fail)
		require.ErrorContains(t, err, "verifying the parameter lists")

		// Rank 1 comes when rank 0 has given up: its memory must still be there.
		groups = memoryGroups(2)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, ddp.VerifyParameters(ctx, groups[0], layers()), context.DeadlineExceeded)
		require.NoError(t, ddp.VerifyParameters(testutil.Soon(t), groups[1], layers()))
	})
}

package ddp_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/tensor"
)

func TestNewReducer_parameters(t *testing.T) {
	made := func(params ...*c10d.Parameter) error {
		r, err := ddp.NewReducer(context.Background(), params, ddp.Options{Group: memoryGroups(1)[0]})
		if err == nil {
			r.Close()
		}
		return err
	}
	taken := map[tensor.DType]bool{tensor.Float64: true, tensor.Float32: true, tensor.Float16: true, tensor.BFloat16: true, tensor.Complex64: true, tensor.Complex128: true}
	for _, dtype := range append(tensor.DTypes(), tensor.NumDTypes) {
		t.Run(dtype.String(), func(t *testing.T) {
			err := made(&c10d.Parameter{Name: "w", Shape: []int64{2}, DType: dtype})
			if taken[dtype] {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ddp.ErrParameter)
			require.ErrorContains(t, err, "w: it is of "+dtype.String())
		})
	}

	t.Run("twice", func(t *testing.T) {
		params := parameters([]int64{2}, []int64{3})
		err := made(params[0], params[1], params[0])
		require.ErrorIs(t, err, ddp.ErrParameter)
		require.ErrorContains(t, err, "p0: it is parameter 0 and 2 of the list")
	})

	t.Run("of one rank, every rank hears", func(t *testing.T) {
		for _, err := range memgroup.Run(2, func(group *memgroup.Group) error {
			params := parameters([]int64{2}, []int64{2})
			params[1].Name = "p0"
			if group.Rank() == 1 {
				params[1] = params[0]
			}
			_, err := ddp.NewReducer(context.Background(), params, ddp.Options{Group: group})
			return err
		}) {
			require.ErrorContains(t, err, "rank 1")
			require.ErrorContains(t, err, "p0: it is parameter 0 and 1 of the list")
		}
	})
}

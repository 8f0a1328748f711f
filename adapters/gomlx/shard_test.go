package gomlxddp_test

import (
	"errors"
	"io"
	"testing"

	"github.com/gomlx/gomlx/pkg/core/tensors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	gomlxddp "pyhook/adapters/gomlx"
)

func TestShard(t *testing.T) {
	first := func(d *data) (list []float32) { // a number of each batch
		for {
			_, x, _, err := d.Yield()
			if err != nil {
				return list
			}
			list = append(list, tensors.MustCopyFlatData[float32](x[0])[0])
		}
	}
	all := first(samples(0, 0, 8))
	for rank := range 3 {
		d := gomlxddp.Shard(samples(0, 0, 8), rank, 3)
		for range 2 {
			var got []float32
			for {
				_, x, _, err := d.Yield()
				if err != nil {
					require.True(t, err == io.EOF, "GoMLX asks for io.EOF itself, and not %v", err)
					break
				}
				got = append(got, tensors.MustCopyFlatData[float32](x[0])[0])
			}
			assert.Equal(t, []float32{all[rank], all[3+rank]}, got)
			d.Reset()
		}
	}
	t.Run("fewer batches than ranks", func(t *testing.T) {
		for rank := range 3 {
			_, _, _, err := gomlxddp.Shard(samples(0, 0, 2), rank, 3).Yield()
			assert.EqualError(t, err, "gomlxddp: Shard: dataset data has 2 batches, and there are 3 ranks")
		}
	})
	t.Run("no such rank", func(t *testing.T) {
		_, _, _, err := gomlxddp.Shard(samples(0, 0, 2), 3, 3).Yield()
		assert.ErrorContains(t, err, "there is no rank 3 of 3")
	})
	t.Run("batches that are the dataset's stay whole", func(t *testing.T) {
		k := &keeping{data: samples(0, 0, 2)}
		_, _, _, err := gomlxddp.Shard(k, 1, 2).Yield()
		require.NoError(t, err)
		assert.True(t, k.given[0].Ok())
		d := &keeping{data: samples(0, 0, 2), transfer: true}
		_, _, _, err = gomlxddp.Shard(d, 1, 2).Yield()
		require.NoError(t, err)
		assert.False(t, d.given[0].Ok())
		assert.True(t, d.given[1].Ok())
	})
	t.Run("a dataset's error", func(t *testing.T) {
		_, _, _, err := gomlxddp.Shard(broken{samples(0, 0, 2)}, 0, 2).Yield()
		assert.ErrorIs(t, err, errBroken)
	})
}

type keeping struct {
	*data
	transfer bool
	given    []*tensors.Tensor
}

func (k *keeping) IsOwnershipTransferred() bool { return k.transfer }

func (k *keeping) Yield() (spec any, x, y []*tensors.Tensor, err error) {
	spec, x, y, err = k.data.Yield()
	k.given = append(k.given, x...)
	return spec, x, y, err
}

var errBroken = errors.New("no more paper")

type broken struct{ *data }

func (broken) Yield() (spec any, x, y []*tensors.Tensor, err error) {
	return nil, nil, nil, errBroken
}

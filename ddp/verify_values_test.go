package ddp_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// withData has values of zero.
func withData(t *testing.T) []*c10d.Parameter {
	list := layers()
	for _, p := range list {
		data, err := tensor.New(p.DType, p.Shape...)
		require.NoError(t, err)
		t.Cleanup(data.Close)
		p.Data = data
	}
	return list
}

func TestVerifyValues(t *testing.T) {
	for name, c := range map[string]struct {
		change func([]*c10d.Parameter) []*c10d.Parameter // of rank 1
		is     error                                     // of rank 0
		say    string                                    // of rank 1
	}{
		"a value":     {func(l []*c10d.Parameter) []*c10d.Parameter { floats(l[1].Data)[2] = 1; return l }, ddp.ErrValues, "a.bias: parameter 1, the first of them, has one value on rank 0, another on rank 1"},
		"a parameter": {func(l []*c10d.Parameter) []*c10d.Parameter { return l[:2] }, ddp.ErrMismatch, "rank 0 has 3 parameters and rank 1 has 2"},
		"no values":   {func(l []*c10d.Parameter) []*c10d.Parameter { l[2].Data = nil; return l }, ddp.ErrValues, "has no Data"},
	} {
		t.Run(name, func(t *testing.T) {
			groups, errs := memgroup.New(2), make([]error, 2)
			done := make(chan int)
			for rank, group := range groups {
				list := withData(t)
				if rank == 1 {
					list = c.change(list)
				}
				go func() {
					errs[rank] = ddp.VerifyValues(testutil.Soon(t), group, list)
					done <- rank
				}()
			}
			<-done
			<-done
			require.ErrorIs(t, errs[0], c.is)
			assert.ErrorContains(t, errs[1], c.say)
		})
	}
}

func TestShareError(t *testing.T) {
	long := errors.New(strings.Repeat("long ", 200))
	for _, fails := range []error{nil, long} {
		groups, errs := memgroup.New(3), make([]error, 3)
		done := make(chan int)
		for rank, g := range groups {
			go func() {
				var mine error
				if rank == 1 {
					mine = fails
				}
				errs[rank] = ddp.ShareError(testutil.Soon(t), g, mine)
				done <- rank
			}()
		}
		for range groups {
			<-done
		}
		if fails == nil {
			require.NoError(t, errors.Join(errs...))
			continue
		}
		assert.Equal(t, long, errs[1])
		assert.ErrorContains(t, errs[0], "rank 1 failed: long long")
		assert.Equal(t, "ddp, rank 2: rank 1 failed: "+long.Error(), errs[2].Error())
	}
}

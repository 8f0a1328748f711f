package tensor_test

import (
	"math/rand/v2"
	"testing"

	"pyhook/internal/torchtest"
	"pyhook/tensor"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTheFirstThatIsNotFiniteIsTorchs compares with torch.isfinite, on tensors of
// random bits and on those with one NaN or infinity anywhere.
func TestTheFirstThatIsNotFiniteIsTorchs(t *testing.T) {
	torchtest.NoLeaks(t)
	random := rand.New(rand.NewPCG(3, 4))
	for dtype := tensor.Float64; dtype < tensor.NumDTypes; dtype++ {
		t.Run(dtype.String(), func(t *testing.T) {
			if torchtest.Call(t, "evaluate", "hasattr(torch, '"+dtype.String()+"')") != true {
				t.Skip("this torch does not have it")
			}
			for _, n := range []int64{0, 1, 9, 4096, 4097, 9001} {
				x := torchtest.New(t, dtype, n)
				bytes, err := tensor.RawBytes(x)
				require.NoError(t, err)
				for range 6 {
					clear(bytes)
					if n > 0 {
						at := random.Int64N(n) * int64(dtype.Size())
						for k := at; k < min(at+16, int64(len(bytes))); k++ {
							bytes[k] = byte(random.Uint32()) | byte(0x7c*random.IntN(2))
						}
						if random.IntN(2) == 0 {
							bytes[at+int64(dtype.Size())-1] |= 0x7f
						}
					}
					firstIsTorchs(t, x)
				}
				for range 4 {
					torchtest.Randomize(t, random, x)
					firstIsTorchs(t, x)
				}
			}
		})
	}
}

func firstIsTorchs(t *testing.T, x *tensor.Tensor) {
	t.Helper()
	o := torchtest.ToPython(t, x)
	defer o.Close()
	want := torchtest.Call(t, "first_nonfinite", o)
	got, err := tensor.FirstNonFinite(x)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestTheFirstThatIsNotFiniteOfAView(t *testing.T) {
	torchtest.NoLeaks(t)
	x, err := tensor.FromSlice([]float32{1, 2, 3, 4, 5, 6})
	require.NoError(t, err)
	defer x.Close()
	s, err := tensor.Slice[float32](x)
	require.NoError(t, err)
	zero := float32(0)
	s[1], s[4] = 1/zero, zero/zero
	column, err := x.View(0, []int64{3}, []int64{2}) // 1, 3, NaN
	require.NoError(t, err)
	defer column.Close()
	at, err := tensor.FirstNonFinite(column)
	require.NoError(t, err)
	assert.Equal(t, int64(2), at)
	x.Close()
	_, err = tensor.FirstNonFinite(x)
	assert.ErrorIs(t, err, tensor.ErrClosed)
}

package tensorconv

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEveryDTypeComesBackFromTorchWithTheSameMemory(t *testing.T) {
	s, err := torch()
	require.NoError(t, err)
	for _, d := range DTypes() {
		t.Run(d.String(), func(t *testing.T) {
			if s.dtypes[d] == nil {
				t.Logf("this torch has no %s", d)
				return
			}
			before := LiveMemory()
			in, err := New(d, 3, 4)
			require.NoError(t, err)
			o, err := in.Python()
			require.NoError(t, err)
			text, err := o.Str()
			require.NoError(t, err)
			t.Log(s.viewed[d], s.exchange != nil, len(text))
			out, err := FromPython(o)
			require.NoError(t, err)
			assert.Equal(t, in.Data(), out.Data())
			assert.Equal(t, d, out.DType())
			assert.Equal(t, []int64{3, 4}, out.Shape())
			assert.Equal(t, []int64{4, 1}, out.Strides())
			out.Close()
			o.Close()
			in.Close()
			assert.Equal(t, before, LiveMemory())
		})
	}
}

package pyhook

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPyTorchsOwnHooksRunUnmodified(t *testing.T) {
	for _, spec := range []string{"allreduce", "fp16", "noop", "fp16_wrapper(allreduce)", "sample:identity", "sample:later"} {
		t.Run(spec, func(t *testing.T) {
			noLeaks(t, func() {
				h, err := rt.NewHook(spec, HookConfig{})
				require.NoError(t, err)
				defer h.Close()
				b := bucket(t, []float32{1, 2}, []float32{3, 4, 5})
				defer b.Buffer().Close()
				defer b.Close()
				for range 3 {
					got, err := run(t, h, b)
					require.NoError(t, err)
					assert.Equal(t, []float32{1, 2, 3, 4, 5}, got)
				}
			})
		})
	}
}

func TestARaisedExceptionIsTypedAndTheNextStepWorks(t *testing.T) {
	h := load(t, "sample:raises", HookConfig{})
	b := bucket(t, []float32{1})
	_, err := run(t, h, b)
	require.ErrorIs(t, err, ErrRaised)
	require.ErrorIs(t, err, Exception("ValueError"))
	t.Log(err)
	got, err := run(t, load(t, "sample:doubled", HookConfig{}), b)
	require.NoError(t, err)
	assert.Equal(t, []float32{2}, got)
}

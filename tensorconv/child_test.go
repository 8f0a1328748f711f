package tensorconv_test

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
	"pyhook/internal/testutil"
	"pyhook/internal/torchtest"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

// childMain runs in a process whose Python has not imported torch.
func childMain() {
	t := require.New(testutil.Child{})
	x, err := tensor.FromSlice([]float32{1, 2})
	t.NoError(err)
	_, err = tensorconv.ToPython(x)
	t.ErrorIs(err, cbridge.ErrNotRunning)
	t.NoError(torchtest.Start("import sys, numpy\ndef evaluate(e): return eval(e, globals())\n"))

	array, err := torchtest.Helper.Call("evaluate", "numpy.arange(3.0)")
	t.NoError(err)
	y, err := tensorconv.FromPython(array)
	t.NoError(err)
	t.Equal(int64(3), y.Len())
	imported, err := torchtest.Helper.CallValue("evaluate", "'torch' in sys.modules")
	t.NoError(err)
	t.Equal(false, imported)

	// The first answer, Python not running, was not kept.
	o, err := tensorconv.ToPython(x)
	t.NoError(err)
	text, err := o.Str()
	t.NoError(err)
	fmt.Println(text)
}

func TestToPython_Import(t *testing.T) {
	t.Run("torch is imported where it is needed, and an earlier failure is forgotten", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), childCase+"=1")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		require.NoError(t, err, "the child said:\n%s", out)
		assert.Equal(t, "tensor([1., 2.])\n", string(out))
	})
}

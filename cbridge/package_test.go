package cbridge

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestInterpreter_InstallPackage(t *testing.T) {
	t.Run("it is imported before an installed copy", func(t *testing.T) {
		leaks.Check(t, func() {
			require.NoError(t, python.InstallPackage("twice", map[string]string{"twice": "origin = 'embedded'\n"}))
			m, err := python.Import("twice") // testdata has one too
			require.NoError(t, err)
			defer m.Close()
			origin, err := m.Attr("origin")
			require.NoError(t, err)
			defer origin.Close()
			s, err := origin.Str()
			require.NoError(t, err)
			assert.Equal(t, "embedded", s)
		})
	})
	t.Run("it has submodules, sources and tracebacks", func(t *testing.T) {
		require.NoError(t, python.InstallPackage("inside", map[string]string{
			"inside":      "from .part import fail, works\nfrom inside import part as again\n__version__ = '1'\n",
			"inside.part": "import inspect\n\n\ndef works():\n    return inspect.getsource(works)\n\n\ndef fail():\n    raise ValueError('from inside')\n",
			"inside.deep": "from .. import part\nfrom . import end\n", "inside.deep.end": "from ..part import works\n",
		}))
		m, err := python.Import("inside")
		require.NoError(t, err)
		defer m.Close()
		assert.Equal(t, "def works():\n    return inspect.getsource(works)\n", call(t, m, "works"))
		_, err = m.CallValue("fail")
		var raised *PythonError
		require.ErrorAs(t, err, &raised)
		assert.Contains(t, raised.Traceback, `File "<embedded inside>/part.py", line 9, in fail`)
		assert.Contains(t, raised.Traceback, "    raise ValueError('from inside')\n")
		assert.Equal(t, "<embedded inside>/__init__.py", value(t, "__import__('inside').__file__"))
		assert.Equal(t, "inside", value(t, "__import__('inside.part').part.__package__"))
		assert.Equal(t, "<embedded inside>/deep/__init__.py", value(t, "__import__('inside.deep').deep.__file__"))
		assert.Equal(t, "inside.deep", value(t, "__import__('inside.deep').deep.end.__package__"))
		_, err = python.Import("inside.missing")
		require.ErrorIs(t, err, Exception("ModuleNotFoundError"))
	})
}

func TestInterpreter_Module(t *testing.T) {
	t.Run("it is registered under its name", func(t *testing.T) {
		leaks.Check(t, func() {
			m, err := python.Module("made_here", "import sys\nx = 'été'\ndef f(): return __name__\n")
			require.NoError(t, err)
			defer m.Close()
			assert.Equal(t, "made_here", call(t, m, "f"))
			again, err := python.Import("made_here")
			require.NoError(t, err)
			defer again.Close()
			assert.True(t, m.Same(again))
			assert.Equal(t, "été", value(t, "__import__('made_here').x"))
		})
	})
}

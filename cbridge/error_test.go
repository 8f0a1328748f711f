package cbridge

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fault calls a function of testdata/faults.py, which raises.
func fault(t *testing.T, name string, args ...any) *PythonError {
	t.Helper()
	faults, err := python.Import("faults")
	require.NoError(t, err)
	defer faults.Close()
	_, err = faults.CallValue(name, args...)
	var raised *PythonError
	require.ErrorAs(t, err, &raised)
	return raised
}

func TestPythonError_Error(t *testing.T) {
	cases := map[string]string{
		"plain":        "ValueError: no such bucket",
		"missing_file": "FileNotFoundError: [Errno 2] No such file or directory: '/no/such/file'",
		"speechless":   "faults.Speechless: <str() of the exception raised ZeroDivisionError>",
		"nested_type":  "faults.Error.Inner: deep name",
		"surrogate":    `ValueError: lone \ud800 surrogate`,
		"noted":        "ValueError: bad gradient\non rank 3\nin bucket 7",
		"leave":        "SystemExit: 3",
		"interrupt":    "KeyboardInterrupt",
	}
	for name, want := range cases {
		t.Run(name, func(t *testing.T) {
			leaks.Check(t, func() { assert.EqualError(t, fault(t, name), want) })
		})
	}
	assert.Equal(t, int64(2), value(t, "1 + 1"), "Python lives on")
}

func TestPythonError(t *testing.T) {
	t.Run("the traceback names file, line and source", func(t *testing.T) {
		err := fault(t, "plain")
		assert.Contains(t, err.Traceback, "Traceback (most recent call last):")
		assert.Regexp(t, `File ".*faults\.py", line 7, in plain`, err.Traceback)
		assert.Contains(t, err.Traceback, `raise ValueError("no such bucket")`)
		assert.NotContains(t, err.Traceback, "bootstrap")
	})
	t.Run("a huge message is cut", func(t *testing.T) {
		err := fault(t, "huge")
		assert.Less(t, len(err.Message), 70_000)
		assert.Less(t, len(err.Traceback), 70_000)
		assert.True(t, strings.HasSuffix(err.Message, "... (1000000 characters)"), err.Message[len(err.Message)-40:])
	})
	t.Run("notes are kept and odd ones passed over", func(t *testing.T) {
		assert.Equal(t, []string{"on rank 3", "in bucket 7"}, fault(t, "noted").Notes)
		if value(t, "hasattr(Exception, 'add_note')") == true {
			m := module(t, "def f():\n    e = OSError('gone')\n    e.add_note('try again')\n    raise e\n")
			_, err := m.CallValue("f")
			assert.EqualError(t, err, "OSError: gone\ntry again")
		}
	})
	t.Run("text attributes are kept", func(t *testing.T) {
		fields := fault(t, "with_fields").Fields
		assert.Equal(t, "node-7", fields["host"])
		assert.NotContains(t, fields, "port", "which is no text")
		assert.Less(t, len(fields["log"]), 70_000)
		assert.Empty(t, fault(t, "plain").Fields)
	})
	t.Run("endless recursion is an error and no crash", func(t *testing.T) {
		for _, name := range []string{"deep", "deep_repr"} {
			assert.ErrorIs(t, fault(t, name), Exception("RecursionError"), name)
		}
		assert.NoError(t, python.RunOnMain(t.Context(), func() {
			assert.ErrorIs(t, fault(t, "deep"), Exception("RecursionError"))
		}))
	})
	t.Run("errors of syntax and of imports", func(t *testing.T) {
		leaks.Check(t, func() {
			_, err := python.Module("broken", "def f(:\n")
			require.ErrorIs(t, err, Exception("SyntaxError"))
			assert.Contains(t, err.Error(), "<broken>, line 1")
			_, err = python.Module("broken", "x = 1\x00y = 2\n")
			require.ErrorContains(t, err, "null bytes")
			_, err = python.Import("no_such_module")
			require.ErrorIs(t, err, Exception("ModuleNotFoundError"))
			_, err = python.Import("broken")
			require.Error(t, err, "a module that failed is not left in sys.modules")
		})
	})
}

func TestPythonError_Is(t *testing.T) {
	t.Run("errors.Is is what except is in Python", func(t *testing.T) {
		err := fmt.Errorf("reading the shard: %w", fault(t, "missing_file"))
		for _, name := range []string{"FileNotFoundError", "OSError", "Exception", "BaseException", "object"} {
			assert.ErrorIs(t, err, Exception(name))
		}
		for _, name := range []string{"ValueError", "Error", ""} {
			assert.NotErrorIs(t, err, Exception(name))
		}
		assert.ErrorIs(t, fault(t, "nested_type"), Exception("faults.Error.Inner"))
		assert.NotErrorIs(t, fault(t, "nested_type"), Exception("Inner"))
		assert.NotErrorIs(t, err, errors.New("another"))
	})
}

func TestPythonError_Unwrap(t *testing.T) {
	t.Run("the chain of causes", func(t *testing.T) {
		for _, name := range []string{"chained", "in_context"} {
			leaks.Check(t, func() {
				err := fault(t, name)
				assert.Equal(t, "outer", err.Message)
				require.NotNil(t, err.Cause)
				assert.Equal(t, "KeyError", err.Cause.Type)
				assert.ErrorIs(t, err, Exception("LookupError"))
				full := err.FullTraceback()
				assert.Less(t, strings.Index(full, "KeyError: 'loss'"), strings.Index(full, "RuntimeError: outer"))
				assert.Equal(t, 1, strings.Count(full, "led to the following one"))
			})
		}
		err := fault(t, "silenced")
		assert.Nil(t, err.Cause)
		assert.NoError(t, errors.Unwrap(err), "a nil cause is a nil error")
		assert.NotErrorIs(t, err, Exception("KeyError"))
		assert.Equal(t, err.Traceback, err.FullTraceback())
	})
	t.Run("a cycle of causes ends", func(t *testing.T) {
		assert.Nil(t, fault(t, "own_cause").Cause)
		err := fault(t, "each_other")
		require.NotNil(t, err.Cause)
		assert.Equal(t, "second", err.Cause.Message)
		assert.Nil(t, err.Cause.Cause)
	})
	t.Run("a long chain of causes is cut", func(t *testing.T) {
		length := 0
		for at := fault(t, "long_chain"); at != nil; at = at.Cause {
			length++
		}
		assert.Equal(t, 16, length)
	})
}

package launch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type pythonError struct{}

func (pythonError) Error() string     { return "ValueError: boom" }
func (pythonError) Traceback() string { return "File \"hook.py\", line 3" }

// chainedError is cbridge.PythonError's form: a field for its own traceback, a
// method for the whole chain's.
type chainedError struct{ Traceback string }

func (*chainedError) Error() string           { return "ValueError: boom" }
func (e *chainedError) FullTraceback() string { return "cause\n" + e.Traceback }

func TestWriteErrorFile(t *testing.T) {
	at := time.Unix(1690000000, 999)
	for _, test := range []struct {
		name string
		err  error
		want string
	}{
		{"a plain error", errors.New("boom"),
			`{"message":{"message":"error: boom","extraInfo":{"py_callstack":"error: boom","timestamp":"1690000000"}}}`},
		{"a typed error behind a wrapper", fmt.Errorf("load: %w", &fs.PathError{Op: "open", Path: "f", Err: fs.ErrNotExist}),
			`{"message":{"message":"fs.PathError: load: open f: file does not exist","extraInfo":{"py_callstack":"fs.PathError: load: open f: file does not exist","timestamp":"1690000000"}}}`},
		{"a Python error with its traceback", fmt.Errorf("hook: %w", pythonError{}),
			`{"message":{"message":"launch.pythonError: hook: ValueError: boom","extraInfo":{"py_callstack":"launch.pythonError: hook: ValueError: boom\n\nFile \"hook.py\", line 3","timestamp":"1690000000"}}}`},
		{"a Python error with its chain of tracebacks", fmt.Errorf("hook: %w", &chainedError{"effect"}),
			`{"message":{"message":"launch.chainedError: hook: ValueError: boom","extraInfo":{"py_callstack":"launch.chainedError: hook: ValueError: boom\n\ncause\neffect","timestamp":"1690000000"}}}`},
		{"a launcher's root cause", &RankError{Rank: 1, ExitCode: 2, Message: "m", Traceback: "tb"},
			`{"message":{"message":"launch.RankError: launch: rank 1 exited with code 2: m","extraInfo":{"py_callstack":"launch.RankError: launch: rank 1 exited with code 2: m\n\ntb","timestamp":"1690000000"}}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "error.json")
			t.Setenv(errorFileVariable, path)
			require.NoError(t, WriteErrorFile(test.err, at))
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Equal(t, test.want, string(got))
			left, err := os.ReadDir(filepath.Dir(path))
			require.NoError(t, err)
			assert.Len(t, left, 1, "the temporary file is gone")

			report, seconds, ok := readErrorFile(path)
			assert.True(t, ok)
			assert.Equal(t, at.Unix(), seconds)
			assert.NotEmpty(t, report.Message.Message)
		})
	}
}

func TestWriteErrorFile_without(t *testing.T) {
	t.Run("nothing is written without a failure", func(t *testing.T) {
		t.Setenv(errorFileVariable, "")
		require.NoError(t, WriteErrorFile(errors.New("x"), time.Now()))
		path := filepath.Join(t.TempDir(), "error.json")
		t.Setenv(errorFileVariable, path)
		require.NoError(t, WriteErrorFile(nil, time.Now()))
		assert.Equal(t, 0, Fail(nil))
		assert.Equal(t, 143, Fail(ErrTerminated))
		assert.NoFileExists(t, path)
		assert.Equal(t, 1, Fail(errors.New("x")))
		assert.FileExists(t, path)
	})
	t.Run("an error names a folder that does not exist", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "missing", "error.json")
		t.Setenv(errorFileVariable, path)
		err := WriteErrorFile(errors.New("x"), time.Now())
		require.ErrorIs(t, err, fs.ErrNotExist)
		assert.ErrorContains(t, err, path)
	})
}

func TestReadErrorFile(t *testing.T) {
	for _, test := range []struct {
		name, text string
		at         int64
		ok         bool
	}{
		{"the short form", `{"message":"m","timestamp":5}`, 5, true},
		{"the short form with a string", `{"message":"m","timestamp":"6"}`, 6, true},
		{"the full form", `{"message":{"message":"m","extraInfo":{"py_callstack":"c","timestamp":"7"}}}`, 7, true},
		{"the full form of a C++ worker, with a number", `{"message":{"message":"m","extraInfo":{"py_callstack":"c","timestamp":8}}}`, 8, true},
		{"half a file", `{"message":{"mess`, 0, false},
		{"no timestamp", `{"message":"m"}`, 0, false},
		{"no message", `{}`, 0, false},
		{"an empty file", ``, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "error.json")
			require.NoError(t, os.WriteFile(path, []byte(test.text), 0o644))
			_, at, ok := readErrorFile(path)
			assert.Equal(t, test.ok, ok)
			if ok {
				assert.Equal(t, test.at, at)
			}
		})
	}
}

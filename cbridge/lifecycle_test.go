package cbridge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func init() {
	children["life of an interpreter"] = childLife
	children["start after failures"] = childFailures
	children["close under load"] = childCloseUnderLoad
	children["show"] = childShow
}

// mustStart starts Python in a child.
func mustStart(is *require.Assertions, cfg Config) *Interpreter {
	in, err := Start(context.Background(), cfg)
	is.NoError(err)
	return in
}

// run executes Python statements in a child.
func run(is *require.Assertions, in *Interpreter, source string) {
	m, err := in.Module("child_main", source)
	is.NoError(err)
	m.Close()
}

// everyUse calls each thing that needs a running interpreter.
func everyUse(is *require.Assertions, in *Interpreter, want error) {
	_, err := in.Import("sys")
	is.ErrorIs(err, want)
	_, err = in.Module("m", "")
	is.ErrorIs(err, want)
	is.Error(in.InstallPackage("p", nil))
	is.ErrorIs(in.RunOnMain(context.Background(), func() {}), want)
	is.ErrorIs(Attached(func() {}), want)
	_, err = Convert(1)
	is.ErrorIs(err, want)
	_, err = NewFunc("f", sum)
	is.ErrorIs(err, want)
	is.Zero(LiveFuncs())
}

func childLife(is *require.Assertions) {
	everyUse(is, &Interpreter{}, ErrNotRunning)
	in := mustStart(is, Config{})
	_, err := Start(context.Background(), Config{})
	is.ErrorIs(err, ErrRunning)
	run(is, in, "import atexit\natexit.register(print, 'atexit ran', flush=False)\nprint('buffered', end=' ')\n")
	o, err := Convert("x")
	is.NoError(err)
	is.NoError(in.Close())
	is.NoError(in.Close())
	everyUse(is, in, ErrClosed)
	_, err = o.Str()
	is.ErrorIs(err, ErrClosed)
	o.Close()
	is.Zero(LiveObjects())
	_, err = Start(context.Background(), Config{})
	is.ErrorIs(err, ErrRunning)
}

func TestStart(t *testing.T) {
	t.Run("an interpreter lives once", func(t *testing.T) {
		assert.Equal(t, "buffered atexit ran\n", runChild(t, "life of an interpreter"))
	})
	t.Run("a good one after failed ones", func(t *testing.T) {
		assert.Equal(t, "[1]\n", runChild(t, "start after failures", "CHILD_DIR="+t.TempDir()))
	})
	t.Run("standard output is UTF-8 in the C locale", func(t *testing.T) {
		assert.Equal(t, "grad → 勾配", show(t, `"grad → \u52fe\u914d"`, "LC_ALL=C"))
	})
	t.Run("sys.argv is there for libraries that read it", func(t *testing.T) {
		assert.Equal(t, "['']", show(t, "sys.argv"))
	})
	t.Run("PYTHONPATH and Config.Path are honoured", func(t *testing.T) {
		first, second, third := t.TempDir(), t.TempDir(), t.TempDir()
		for i, dir := range []string{first, second, third} {
			source := fmt.Sprintf("n = %d\n", i+1)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "which_one.py"), []byte(source), 0o644))
		}
		require.NoError(t, os.WriteFile(filepath.Join(third, "only_third.py"), nil, 0o644))
		const expression = "__import__('which_one').n, bool(__import__('only_third'))"
		path := "PYTHONPATH=" + second + string(os.PathListSeparator) + third
		assert.Equal(t, "(2, True)", show(t, expression, path))
		assert.Equal(t, "(1, True)", show(t, expression, path, "CHILD_PATH="+first))
		assert.Equal(t, "(3, True)", show(t, expression, path, "CHILD_PATH="+third+" "+first))
	})
	t.Run("a virtual environment is the one inside", func(t *testing.T) {
		venv := makeVenv(t)
		require.NoError(t, os.WriteFile(filepath.Join(sitePackages(t, venv), "only_here.py"), []byte("x = 'found'\n"), 0o644))
		want := fmt.Sprint([]string{venv, filepath.Join(venv, "bin", "python"), "found"})
		got := show(t, "'[%s %s %s]' % (sys.prefix, sys.executable, __import__('only_here').x)", "PYHOOK_PYTHON=", "VIRTUAL_ENV="+venv)
		assert.Equal(t, want, got)
	})
	t.Run("the example runs", func(t *testing.T) {
		out := runChild(t, onlyExample)
		assert.Contains(t, out, "PASS")
		assert.NotContains(t, out, "no tests to run")
	})
}

func childFailures(is *require.Assertions) {
	ctx := context.Background()
	text := filepath.Join(os.Getenv("CHILD_DIR"), "libpython.txt")
	is.NoError(os.WriteFile(text, []byte("no library\n"), 0o644))
	libc := "libc.so.6"
	failures := []struct {
		cfg  Config
		said []string
	}{
		{Config{Python: "/no/such/python"}, []string{"/no/such/python (Config.Python): not found", "hint: set PYHOOK_PYTHON"}},
		{Config{Library: "/no/libpython.so"}, []string{"/no/libpython.so: ", "No such file", "no shared libpython", "hint: "}},
		{Config{Library: text}, []string{text + ": ", "hint: "}},
		{Config{Library: libc}, []string{"libc.so.6 has no symbol Py_GetVersion"}},
		{Config{Modules: []string{"json", "no_such_module"}}, []string{"has no module no_such_module", "pip install json no_such_module"}},
	}
	for _, f := range failures {
		_, err := Start(ctx, f.cfg)
		var discovery *DiscoveryError
		is.ErrorAs(err, &discovery, "%+v", f.cfg)
		is.NotEmpty(discovery.Tried)
		is.NotEmpty(discovery.Hint)
		for _, text := range f.said {
			is.Contains(err.Error(), text)
		}
		is.ErrorIs(Attached(func() {}), ErrNotRunning)
	}
	var started atomic.Int64
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			in, err := Start(ctx, Config{Modules: []string{"json"}})
			if err == nil {
				started.Add(1)
				run(is, in, "import json\nprint(json.dumps([1]))\n")
				is.NoError(in.Close())
			} else {
				is.ErrorIs(err, ErrRunning)
			}
		})
	}
	group.Wait()
	is.EqualValues(1, started.Load())
}

func childCloseUnderLoad(is *require.Assertions) {
	in := mustStart(is, Config{})
	var calls atomic.Int64
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for {
				o, err := Convert([]int{1, 2, 3})
				if err == nil {
					_, err = o.Repr()
					o.Close()
				}
				if err != nil {
					is.ErrorIs(err, ErrClosed)
					return
				}
				calls.Add(1)
			}
		})
	}
	for calls.Load() < 100 {
		run(is, in, "pass")
	}
	is.NoError(in.Close())
	group.Wait()
	is.Zero(LiveObjects())
	fmt.Println("closed")
}

func TestInterpreter_Close_OtherCalls(t *testing.T) {
	t.Run("they get ErrClosed", func(t *testing.T) {
		assert.Equal(t, "closed\n", runChild(t, "close under load"))
	})
}

// childShow starts Python by the environment and prints what CHILD_SHOW, an
// expression, is.
func childShow(is *require.Assertions) {
	in := mustStart(is, Config{Path: strings.Fields(os.Getenv("CHILD_PATH"))})
	run(is, in, "import sys, os\nprint(eval(os.environ['CHILD_SHOW']))\n")
	is.NoError(in.Close())
}

func show(t *testing.T, expression string, env ...string) string {
	t.Helper()
	return strings.TrimSpace(runChild(t, "show", append(env, "CHILD_SHOW="+expression)...))
}

func TestStart_Configuration(t *testing.T) {
	const expression = "[tuple(sys.flags), sys.executable, sys.prefix, sys.stdout.encoding, sys.stdout.errors, " +
		"sys.getfilesystemencoding(), hash('grad'), sys.dont_write_bytecode, sys.path[-3:]]"
	environments := map[string][]string{
		"plain":                       nil,
		"the C locale":                {"LC_ALL=C"},
		"the POSIX locale":            {"LC_ALL=POSIX"},
		"a locale that is not there":  {"LC_ALL=xx_YY.UTF-8"},
		"UTF-8 mode":                  {"PYTHONUTF8=1", "LC_ALL=C"},
		"no UTF-8 mode in C.UTF-8":    {"PYTHONUTF8=0", "LC_ALL=C.UTF-8"},
		"an encoding of the user's":   {"PYTHONIOENCODING=latin-1:replace"},
		"optimised, without bytecode": {"PYTHONOPTIMIZE=1", "PYTHONDONTWRITEBYTECODE=1", "PYTHONNOUSERSITE=1"},
	}
	for name, env := range environments {
		t.Run(name, func(t *testing.T) {
			env := append(env, "PYTHONHASHSEED=20260101")
			cmd := exec.Command(python.Python.Executable, "-c", "import sys\nprint("+expression+")")
			cmd.Env = append(os.Environ(), env...)
			want, err := cmd.Output()
			require.NoError(t, err)
			assert.Equal(t, strings.TrimSpace(string(want)), show(t, expression, env...))
		})
	}
}

func TestDiscoveryError(t *testing.T) {
	t.Run("errors.As finds it", func(t *testing.T) {
		err := fmt.Errorf("starting: %w", &DiscoveryError{Tried: []Attempt{{"a", "b"}}, Hint: "c"})
		var discovery *DiscoveryError
		require.True(t, errors.As(err, &discovery))
		assert.EqualError(t, err, "starting: no usable Python found; tried:\n  a: b\nhint: c")
	})
}

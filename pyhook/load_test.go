package pyhook

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
)

// file writes a Python file for the test's duration.
func file(t *testing.T, name, source string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(source), 0o600))
	return path
}

func TestAHookThatCannotBeLoadedIsATypedError(t *testing.T) {
	missing := file(t, "needs_a_module.py", "import no_such_dependency\n")
	raising := file(t, "raising.py", "raise OSError('no disk')\n")
	exiting := file(t, "script.py", "import sys\nsys.exit(2)\n")
	syntax := file(t, "not_python.py", "def hook(state, bucket:\n")
	cases := map[string]struct {
		spec  string
		kind  error
		cause string
		says  string
	}{
		"a missing module":          {"no_such_module:hook", c10d.ErrNoModule, "", "there is no module 'no_such_module'"},
		"a missing file":            {"no/such/file.py:hook", c10d.ErrNoModule, "", "there is no file 'no/such/file.py'"},
		"a missing attribute":       {"faults:returns_non", c10d.ErrNoAttribute, "", "hint: did you mean returns_none"},
		"a short name misspelt":     {"fp61", c10d.ErrBadSpec, "", "hint: did you mean fp16"},
		"no colon":                  {"my.hooks.fp16", c10d.ErrBadSpec, "", "my.hooks:fp16"},
		"empty":                     {"", c10d.ErrBadSpec, "", "cannot read ''"},
		"brackets that do not fit":  {"fp16_wrapper)", c10d.ErrBadSpec, "", "brackets"},
		"a number":                  {"faults:a_number", c10d.ErrNotCallable, "", "Got int"},
		"an object that is no hook": {"faults:Unprintable()", c10d.ErrNotCallable, "", "hint: name the function"},
		"a class":                   {"faults:Unprintable", c10d.ErrNotCallable, "", "is a class"},
		"one argument":              {"faults:one_argument", c10d.ErrArity, "", "cannot be called with (state, bucket)"},
		"a wrapper without a hook":  {"fp16_wrapper", c10d.ErrArity, "", "this looks like a wrapper"},
		"an async def":              {"faults:an_async_def", c10d.ErrNotFuture, "", "is an `async def`"},
		"a generator":               {"faults:a_generator", c10d.ErrNotFuture, "", "has a `yield` in it"},
		"an import error inside":    {missing + ":hook", c10d.ErrImportFailed, "ModuleNotFoundError", "hint: install no_such_dependency"},
		"an error inside":           {raising + ":hook", c10d.ErrImportFailed, "OSError", "OSError: no disk"},
		"a script that exits":       {exiting + ":hook", c10d.ErrImportFailed, "SystemExit", `if __name__ == "__main__"`},
		"a syntax error":            {syntax + ":hook", c10d.ErrImportFailed, "SyntaxError", "SyntaxError"},
		"a fault inside the wraps":  {"fp16_wrapper(faults:a_number)", c10d.ErrNotCallable, "", "Got int"},
		"a wrapper with two inside": {"fp16_wrapper(noop, noop)", c10d.ErrArity, "", "2 hook(s)"},
	}
	for name, c := range cases {
		check(t, name, func(t *testing.T) {
			_, err := rt.NewHook(t.Context(), c.spec, HookConfig{})
			saysAll(t, err, c.kind, c.spec, -1)
			require.ErrorIs(t, err, c10d.ErrLoad)
			assert.Contains(t, err.Error(), c.says)
			if c.cause != "" {
				require.ErrorIs(t, err, Exception(c.cause))
			}
		})
	}
	check(t, "and after it a good one is", func(t *testing.T) {
		load(t, "faults:returns_none", HookConfig{})
	})
}

func TestAStateThatCannotBeMadeIsATypedError(t *testing.T) {
	cases := map[string]struct {
		spec   string
		kwargs map[string]any
		kind   error
		says   string
	}{
		"an argument too many":      {"faults:needs_rank", map[string]any{"matrix_rank": 1, "rnk": 2}, c10d.ErrBadArguments, "unexpected keyword argument 'rnk'"},
		"an argument missing":       {"faults:needs_rank", nil, c10d.ErrBadArguments, "hint: it accepts matrix_rank"},
		"no class":                  {"faults:a_number", nil, c10d.ErrNotCallable, "no class and no function"},
		"a constructor that raises": {"faults:throw", map[string]any{"error": 3}, c10d.ErrLoad, "TypeError: exceptions must derive"},
		"no such class":             {"faults:PowerSGDStat", nil, c10d.ErrNoAttribute, "faults has no 'PowerSGDStat'"},
	}
	for name, c := range cases {
		check(t, name, func(t *testing.T) {
			_, err := rt.NewState(t.Context(), c.spec, c.kwargs, nil)
			saysAllOf(t, err, c.kind, "state "+c.spec, -1)
			assert.Contains(t, err.Error(), c.says)
		})
	}
	check(t, "of Go values without a Python form", func(t *testing.T) {
		_, err := rt.NewHook(t.Context(), "noop", HookConfig{State: make(chan int)})
		require.ErrorIs(t, err, c10d.ErrBadArguments)
		require.ErrorContains(t, err, "chan int")
		_, err = rt.WrapHook(t.Context(), nil, HookConfig{})
		saysAll(t, err, c10d.ErrClosed, "without a name", -1)
	})
}

func TestAHooksFileMayBeNamedByItsPath(t *testing.T) {
	path := file(t, "my hooks.py", "from sample import doubled\n")
	check(t, "", func(t *testing.T) {
		got, err := run(t, load(t, path+":doubled", HookConfig{}), bucket(t, []float32{1, 2}))
		require.NoError(t, err)
		assert.Equal(t, []float32{2, 4}, got)
	})
}

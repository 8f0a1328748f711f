package cbridge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func init() { children["bytecode"] = childBytecode }

// recorder, as sitecustomize.py, has Python note what it compiles.
const recorder = `import sys
compiled = []
sys.addaudithook(lambda event, args: event == "compile" and compiled.append(str(args[1])))
`

// childBytecode starts Python with two modules from memory and prints x of one of them, and then
// what of ours was compiled.
func childBytecode(is *require.Assertions) {
	in := mustStart(is, Config{})
	is.NoError(in.InstallPackage("kept", map[string]string{"kept": os.Getenv("CHILD_SOURCE"), "kept.part": "y = 1\n"}))
	run(is, in, `import kept, kept.part, sitecustomize
ours = [name for name in sitecustomize.compiled if "<_pyhook" in name or "<embedded" in name]
print(" ".join([str(kept.x), *sorted(ours)]))
`)
	is.NoError(in.SaveBytecode())
	is.NoError(in.Close())
}

// cache is a user's cache folder, and the starts that use it.
type cache struct {
	t      *testing.T
	folder string
	env    []string
}

func newCache(t *testing.T) *cache {
	site, folder := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(site, "sitecustomize.py"), []byte(recorder), 0o644))
	return &cache{t, folder, []string{"PYTHONPATH=" + site, "XDG_CACHE_HOME=" + folder, "PYTHONDONTWRITEBYTECODE="}}
}

// start is what a start says that x is, and what it compiled.
func (c *cache) start(source string, env ...string) (x string, compiled []string) {
	c.t.Helper()
	said := strings.Fields(runChild(c.t, "bytecode", append(append(c.env, "CHILD_SOURCE="+source), env...)...))
	require.NotEmpty(c.t, said)
	return said[0], said[1:]
}

// files are those that the starts have left.
func (c *cache) files() []string {
	c.t.Helper()
	files, err := filepath.Glob(filepath.Join(c.folder, bytecodeFolder, "*"))
	require.NoError(c.t, err)
	return files
}

func TestInterpreter_SaveBytecode(t *testing.T) {
	all := []string{"<_pyhook_bootstrap>", "<_pyhook_ending>", "<_pyhook_interrupt>", "<_pyhook_signals>",
		"<embedded", "kept>/__init__.py", "<embedded", "kept>/part.py"}
	const source = "x = 1\n"

	t.Run("the second start compiles nothing of ours", func(t *testing.T) {
		c := newCache(t)
		x, compiled := c.start(source)
		assert.Equal(t, "1", x)
		assert.Equal(t, all, compiled)
		require.Len(t, c.files(), 1)
		for path, mode := range map[string]os.FileMode{c.files()[0]: 0o600, filepath.Join(c.folder, bytecodeFolder): os.ModeDir | 0o700} {
			info, err := os.Stat(path)
			require.NoError(t, err)
			assert.Equal(t, mode, info.Mode())
		}
		x, compiled = c.start(source)
		assert.Equal(t, "1", x)
		assert.Empty(t, compiled)
	})
	t.Run("a changed source is compiled, and the others are not", func(t *testing.T) {
		c := newCache(t)
		c.start(source)
		x, compiled := c.start("x = 2\n")
		assert.Equal(t, "2", x)
		assert.Equal(t, []string{"<embedded", "kept>/__init__.py"}, compiled)
		_, compiled = c.start("x = 2\n")
		assert.Empty(t, compiled)
	})
	t.Run("each optimisation has its own", func(t *testing.T) {
		c := newCache(t)
		const source = "x = 1\nassert not (x := 0)\nx += 1\n"
		for _, want := range []struct{ optimise, x string }{{"", "1"}, {"1", "2"}, {"", "1"}, {"1", "2"}} {
			x, _ := c.start(source, "PYTHONOPTIMIZE="+want.optimise)
			assert.Equal(t, want.x, x)
		}
		assert.Len(t, c.files(), 2)
	})
	t.Run("nothing is written where Python may not write bytecode, and it is read", func(t *testing.T) {
		c := newCache(t)
		c.start(source, "PYTHONDONTWRITEBYTECODE=1")
		assert.Empty(t, c.files())
		c.start(source)
		_, compiled := c.start(source, "PYTHONDONTWRITEBYTECODE=1")
		assert.Empty(t, compiled)
	})
	t.Run("there need be no folder", func(t *testing.T) {
		_, compiled := newCache(t).start(source, "XDG_CACHE_HOME=", "HOME=")
		assert.Equal(t, all, compiled)
	})

	// What is not good is not used; good says that the start after that has its own again.
	for name, spoil := range map[string]struct {
		spoil func(t *testing.T, file string) error
		good  bool
		root  bool // only root can do it
	}{
		"an empty file":    {func(t *testing.T, file string) error { return os.Truncate(file, 0) }, true, false},
		"a file cut short": {func(t *testing.T, file string) error { return os.Truncate(file, 2000) }, true, false},
		"a damaged file": {func(t *testing.T, file string) error {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			data[len(data)/2] ^= 1
			return os.WriteFile(file, data, 0o600)
		}, true, false},
		"a file of another Python": {func(t *testing.T, file string) error {
			c := newCache(t)
			c.start(source, "PYTHONOPTIMIZE=1")
			return os.Rename(c.files()[0], file)
		}, true, false},
		"a folder in the file's place": {func(t *testing.T, file string) error {
			require.NoError(t, os.Remove(file))
			return os.Mkdir(file, 0o700)
		}, false, false},
		"a file that the group may write": {func(t *testing.T, file string) error { return os.Chmod(file, 0o620) }, true, false},
		"a folder that others may write":  {func(t *testing.T, file string) error { return os.Chmod(filepath.Dir(file), 0o707) }, false, false},
		"another user's file":             {func(t *testing.T, file string) error { return os.Chown(file, 65534, -1) }, true, true},
		"another user's folder":           {func(t *testing.T, file string) error { return os.Chown(filepath.Dir(file), 65534, -1) }, false, true},
	} {
		t.Run(name+" is not used", func(t *testing.T) {
			if spoil.root && os.Geteuid() != 0 {
				t.Skip("only root can give files away")
			}
			c := newCache(t)
			c.start(source)
			require.NoError(t, spoil.spoil(t, c.files()[0]))
			x, compiled := c.start(source)
			assert.Equal(t, "1", x)
			assert.Equal(t, all, compiled)
			_, compiled = c.start(source)
			assert.Equal(t, spoil.good, len(compiled) == 0)
			assert.Len(t, c.files(), 1)
		})
	}
	t.Run("nothing is made in another user's folder", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root can give folders away")
		}
		c := newCache(t)
		require.NoError(t, os.Chown(c.folder, 65534, -1))
		c.start(source)
		assert.NoDirExists(t, filepath.Join(c.folder, "pyhook"))
	})
}

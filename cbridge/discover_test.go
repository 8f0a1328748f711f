package cbridge

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// makeVenv makes a virtual environment of the Python under test.
func makeVenv(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	venv := filepath.Join(dir, "venv")
	out, err := exec.Command(python.Python.Executable, "-m", "venv", "--without-pip", venv).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return venv
}

// sitePackages is the folder of venv's modules.
func sitePackages(t *testing.T, venv string) string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(venv, "lib", "python*", "site-packages"))
	require.NoError(t, err)
	require.Len(t, dirs, 1)
	return dirs[0]
}

// environment sets what Discover reads; the rest of it is unset.
func environment(t *testing.T, variables map[string]string) {
	t.Helper()
	for _, name := range []string{"PYHOOK_PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX"} {
		t.Setenv(name, variables[name])
	}
	if path, ok := variables["PATH"]; ok {
		t.Setenv("PATH", path+string(os.PathListSeparator)+os.Getenv("PATH"))
	}
}

// program writes an executable file.
func program(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "python3")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
	return path
}

func TestDiscover_First(t *testing.T) {
	virtual, conda, onPath, named := makeVenv(t), makeVenv(t), makeVenv(t), makeVenv(t)
	for _, venv := range []string{conda, onPath} {
		require.NoError(t, os.WriteFile(filepath.Join(sitePackages(t, venv), "not_in_virtual.py"), nil, 0o644))
	}
	all := map[string]string{"VIRTUAL_ENV": virtual, "CONDA_PREFIX": conda, "PATH": filepath.Join(onPath, "bin")}
	with := func(name, value string) map[string]string {
		m := map[string]string{name: value}
		for k, v := range all {
			m[k] = v
		}
		return m
	}
	cases := map[string]struct {
		env      map[string]string
		explicit string
		modules  []string
		prefix   string
		source   string
		refused  int
	}{
		"VIRTUAL_ENV before CONDA_PREFIX": {env: all, prefix: virtual, source: "VIRTUAL_ENV"},
		"CONDA_PREFIX before PATH":        {env: map[string]string{"CONDA_PREFIX": conda, "PATH": all["PATH"]}, prefix: conda, source: "CONDA_PREFIX"},
		"PATH":                            {env: map[string]string{"PATH": all["PATH"]}, prefix: onPath, source: "python3 on PATH"},
		"PYHOOK_PYTHON before them": {env: with("PYHOOK_PYTHON", filepath.Join(named, "bin", "python3")), prefix: named,
			source: "PYHOOK_PYTHON"},
		"Config.Python before all": {env: with("PYHOOK_PYTHON", "/no/such/python"), explicit: filepath.Join(named, "bin", "python"),
			prefix: named, source: "Config.Python"},
		"one without the modules is passed over": {env: all, modules: []string{"not_in_virtual"}, prefix: conda, source: "CONDA_PREFIX", refused: 1},
		"one that is gone is passed over": {env: map[string]string{"VIRTUAL_ENV": "/no/such/venv", "CONDA_PREFIX": conda},
			prefix: conda, source: "CONDA_PREFIX", refused: 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			environment(t, c.env)
			found, refused, err := Discover(t.Context(), c.explicit, c.modules...)
			require.NoError(t, err)
			assert.Equal(t, c.prefix, found.Prefix)
			assert.Equal(t, c.source, found.Source)
			assert.Len(t, refused, c.refused)
			assert.NotEmpty(t, found.Libraries)
		})
	}
}

func TestDiscover_Named(t *testing.T) {
	environment(t, map[string]string{"PYHOOK_PYTHON": python.Python.Executable})
	cases := map[string]struct {
		path string
		why  string
	}{
		"that is not there":                {"/no/such/python", "not found or not executable"},
		"that is a folder":                 {t.TempDir(), "not found or not executable"},
		"that is another program":          {"/bin/true", `did not answer as a Python does: ""`},
		"that is a text file":              {program(t, "just text\n"), ""},
		"that fails":                       {program(t, "#!/bin/sh\necho first >&2\necho no license >&2\nexit 3\n"), "does not run: exit status 3: no license"},
		"that is Python 3.8":               {answers(t, "3.8.20", "cpython"), "is Python 3.8.20, and pyhook needs 3.9 or newer"},
		"that is Python 2":                 {answers(t, "2.7.18", "cpython"), "pyhook needs 3.9 or newer"},
		"that is PyPy":                     {answers(t, "3.10.1", "pypy"), "is pypy, and pyhook needs CPython"},
		"that answers with something else": {program(t, "#!/bin/sh\necho hello\n"), `did not answer as a Python does: "hello"`},
	}
	for name, c := range cases {
		for _, by := range []string{"Config.Python", "PYHOOK_PYTHON"} {
			t.Run(name+", by "+by, func(t *testing.T) {
				explicit := c.path
				if by == "PYHOOK_PYTHON" {
					t.Setenv("PYHOOK_PYTHON", c.path)
					explicit = ""
				}
				_, _, err := Discover(t.Context(), explicit)
				var discovery *DiscoveryError
				require.ErrorAs(t, err, &discovery)
				require.Len(t, discovery.Tried, 1)
				assert.Equal(t, fmt.Sprintf("%s (%s)", c.path, by), discovery.Tried[0].What)
				assert.Contains(t, discovery.Tried[0].Why, c.why)
				assert.Contains(t, discovery.Hint, "PYHOOK_PYTHON")
			})
		}
	}
}

// answers is a program that says it is that Python.
func answers(t *testing.T, version, implementation string) string {
	t.Helper()
	return program(t, fmt.Sprintf("#!/bin/sh\necho '{\"version\": %q, \"implementation\": %q}'\n", version, implementation))
}

func TestDiscover(t *testing.T) {
	t.Run("a hanging interpreter ends with the context", func(t *testing.T) {
		hanging := program(t, "#!/bin/sh\nsleep 20\n") // the shell's child holds the pipes
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, _, err := Discover(ctx, hanging)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Contains(t, err.Error(), hanging)
		assert.Less(t, time.Since(start), 10*time.Second)
	})
	t.Run("noise before the answer is passed over", func(t *testing.T) {
		noisy := program(t, "#!/bin/sh\necho 'loading modules ...'\nexec "+python.Python.Executable+" \"$@\"\n")
		found, _, err := Discover(t.Context(), noisy)
		require.NoError(t, err)
		assert.Equal(t, python.Python.Version, found.Version)
	})
	t.Run("modules of the working directory are not found", func(t *testing.T) {
		dir := t.TempDir()
		for _, name := range []string{"json.py", "only_in_folder.py"} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("raise SystemExit('wrong json')\n"), 0o644))
		}
		executable := python.Python.Executable
		t.Chdir(dir)
		_, _, err := Discover(t.Context(), executable, "json")
		require.NoError(t, err)
		_, _, err = Discover(t.Context(), executable, "only_in_folder")
		require.ErrorContains(t, err, "has no module only_in_folder")
	})
	t.Run("versions are read", func(t *testing.T) {
		for version, minor := range map[string]int{"3.11.2": 11, "3.9.0": 9, "3.14": 14, "2.7.18": -1, "": -1, "3": -1, "3.x.1": -1} {
			assert.Equal(t, minor, minorVersion(version), version)
		}
	})
	t.Run("the library's hint fits the machine", func(t *testing.T) {
		t.Setenv("CONDA_PREFIX", "")
		assert.Contains(t, libraryHint(&Python{Version: "3.11.2", BasePrefix: "/usr"}), "libpython3.11")
		assert.Contains(t, libraryHint(&Python{Version: "3.12.1", BasePrefix: "/opt/python"}), "--enable-shared")
		t.Setenv("CONDA_PREFIX", "/opt/conda")
		assert.Contains(t, libraryHint(&Python{Version: "3.12.1", BasePrefix: "/opt/conda"}), "conda install")
	})
}

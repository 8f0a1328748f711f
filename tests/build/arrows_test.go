package build

import (
	"cmp"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// layers are the packages of the library from the bottom up. A package may import those of the rows
// above its own, and internal ones.
var layers = [][]string{
	{"tensor", "cbridge", "python", "launch"},
	{"c10d", "tensorconv"},
	{"c10d/hooks", "c10d/transport"},
	{"c10d/transport/memgroup", "ddp", "pyhook"},
	{"ddp/flat", "worker"},
	{"job"},
}

// list runs go list in the repository's root.
func list(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	require.NoError(t, err)
	return strings.Fields(string(out))
}

func TestArrows(t *testing.T) {
	t.Run("the contracts and the Reducer need no Python", func(t *testing.T) {
		deps := list(t, "-deps", "./ddp", "./c10d/...", "./tensor")
		require.Contains(t, deps, "pyhook/c10d/transport/memgroup")
		for _, python := range []string{"pyhook/cbridge", "pyhook/tensorconv", "pyhook/pyhook", "pyhook/python", "pyhook/worker"} {
			assert.NotContains(t, deps, python)
		}
	})
	t.Run("no package imports upwards", func(t *testing.T) {
		layer := map[string]int{}
		for i, row := range layers {
			for _, name := range row {
				layer["pyhook/"+name] = i
			}
		}
		for name, own := range layer {
			for _, imported := range list(t, "-f", `{{join .Imports " "}}`, "./"+strings.TrimPrefix(name, "pyhook/")) {
				if other, ok := layer[imported]; ok {
					assert.Less(t, other, own, "%s imports %s", name, imported)
				}
			}
		}
	})
	t.Run("every package of the library has a layer", func(t *testing.T) {
		for _, name := range list(t, "./...") {
			name = strings.TrimPrefix(name, "pyhook/")
			inside := regexp.MustCompile(`(^|/)(internal|cmd|tests|examples|adapters)(/|$)`).MatchString(name)
			if !inside {
				assert.True(t, slices.ContainsFunc(layers, func(row []string) bool { return slices.Contains(row, name) }), name)
			}
		}
	})
	t.Run("what the library's packages need of others", func(t *testing.T) {
		for _, name := range list(t, "-deps", "-f", "{{if .Module}}{{.Module.Path}}{{end}}", "./ddp", "./c10d/...", "./job", "./worker", "./launch", "./pyhook") {
			assert.Contains(t, []string{"pyhook", "golang.org/x/sys"}, name)
		}
	})
}

// A header of another package would not be in the key of Go's build cache: objects of the old
// layout would stay in use.
func TestArrows_headers(t *testing.T) {
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() && (entry.Name() == "tests" || entry.Name() == ".git" || entry.Name() == "out") {
			return cmp.Or(err, error(fs.SkipDir))
		}
		if !slices.Contains([]string{".go", ".c", ".h"}, filepath.Ext(path)) {
			return nil
		}
		text, err := os.ReadFile(path)
		assert.NotRegexp(t, `#include ".*/|-I\$\{SRCDIR\}/\.\.`, string(text), path)
		return err
	})
	require.NoError(t, err)
}

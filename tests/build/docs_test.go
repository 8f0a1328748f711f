package build

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestDocs_namesOfTests: each test that a page names is there.
func TestDocs_namesOfTests(t *testing.T) {
	root := filepath.Join("..", "..")
	defined := map[string]bool{}
	declaration := regexp.MustCompile(`(?m)^func (Test\w+|Fuzz\w+)\(`)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, match := range declaration.FindAllStringSubmatch(string(text), -1) {
			defined[match[1]] = true
		}
		return err
	})
	require.NoError(t, err)
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	require.NoError(t, err)
	named := 0
	for _, page := range append(pages, filepath.Join(root, "README.md")) {
		if filepath.Base(page) == "compatibility.md" {
			continue // what make matrix ran, under the names of then
		}
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, name := range regexp.MustCompile(`\b(Test[A-Z]\w+|Fuzz[A-Z]\w+)`).FindAllString(string(text), -1) {
			named++
			assert.True(t, defined[name], "%s names %s, which is not there", page, name)
		}
	}
	assert.Greater(t, named, 20)
}

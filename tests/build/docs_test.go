package build

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var root = filepath.Join("..", "..")

// pages returns the text of each page for readers, by its path from the root. Decisions are not
// among them: they name what was there in their time.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "python/*.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			name, err := filepath.Rel(root, file)
			require.NoError(t, err)
			found[filepath.ToSlash(name)] = string(text)
		}
	}
	require.Greater(t, len(found), 10)
	return found
}

// TestDocs_namesOfTests: each test that a page names is there.
func TestDocs_namesOfTests(t *testing.T) {
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
	named := 0
	for page, text := range pages(t) {
		if page == "docs/compatibility.md" {
			continue // what make matrix ran, under the names of then
		}
		for _, name := range regexp.MustCompile(`\b(Test[A-Z]\w+|Fuzz[A-Z]\w+)`).FindAllString(text, -1) {
			if name == "TestReducer_Wait" {
				continue // CONTRIBUTING's example of a name
			}
			named++
			assert.True(t, defined[name], "%s names %s, which is not there", page, name)
		}
	}
	assert.Greater(t, named, 20)
}

// TestDocs_links: each link to a file of the clone leads to one, and each to a heading to one.
func TestDocs_links(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```.*?```")
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading := regexp.MustCompile(`(?m)^#+ (.+)$`)
	texts := pages(t)
	anchors := map[string]map[string]bool{}
	for page, text := range texts {
		texts[page] = blocks.ReplaceAllString(text, "")
		anchors[page] = map[string]bool{}
		for _, match := range heading.FindAllStringSubmatch(texts[page], -1) {
			plain := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(match[1]), "")
			anchors[page][strings.ReplaceAll(plain, " ", "-")] = true
		}
	}
	for page, text := range texts {
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			name, anchor, _ := strings.Cut(match[1], "#")
			target := page
			if name != "" {
				target = path.Join(path.Dir(page), name)
			}
			_, err := os.Stat(filepath.Join(root, filepath.FromSlash(target)))
			assert.NoError(t, err, "%s links to %s", page, match[1])
			if known, ok := anchors[target]; ok && anchor != "" {
				assert.True(t, known[anchor], "%s links to %s, and there is no such heading", page, match[1])
			}
		}
	}
}

// TestDocs_wayOfABucket: who follows a bucket from Ready to the written gradient opens 14 files or
// fewer, each once, and finds in each the functions that the page names.
func TestDocs_wayOfABucket(t *testing.T) {
	row := regexp.MustCompile("(?m)^\\| (\\d+) \\| `([^`]+)` \\| (.*) \\|$")
	rows := row.FindAllStringSubmatch(pages(t)["docs/architecture.md"], -1)
	require.NotEmpty(t, rows)
	assert.LessOrEqual(t, len(rows), 14)
	seen := map[string]bool{}
	function := regexp.MustCompile("`(?:\\w+\\.)?(\\w+)(?:\\([^`]*\\))?`")
	for _, r := range rows {
		assert.False(t, seen[r[2]], "%s comes twice", r[2])
		seen[r[2]] = true
		source, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(r[2])))
		require.NoError(t, err)
		for _, match := range function.FindAllStringSubmatch(r[3], -1) {
			assert.Contains(t, string(source), match[1], r[2])
		}
	}
}

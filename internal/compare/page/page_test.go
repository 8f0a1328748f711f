package page

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/compare"
)

// TestWrite: what a hook's name or message says ends neither the script nor becomes a part of the page,
// and every marker is filled in.
func TestWrite(t *testing.T) {
	const hostile = "</script><b>{{library}}"
	var text strings.Builder
	require.NoError(t, Write(&text, &compare.Report{
		Model: hostile, Hooks: []compare.HookReport{{Hook: hostile, Failure: &compare.Failure{Message: hostile}, Warnings: []string{hostile}}},
	}))
	page := text.String()
	assert.NotContains(t, page, "<b>")
	assert.Equal(t, 4, strings.Count(page, `\u003c/script\u003e\u003cb\u003e{{library}}`))
	for _, marker := range []string{"{{licence}}", "{{report}}", "{{script}}"} {
		assert.NotContains(t, page, marker)
	}
	assert.Equal(t, 3, strings.Count(page, "</script>"))
}

// TestWriteFile: a link stays a link, and what is no file is written to.
func TestWriteFile(t *testing.T) {
	folder := t.TempDir()
	link, file := filepath.Join(folder, "link"), filepath.Join(folder, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Symlink("file", link))
	require.NoError(t, WriteFile(link, &compare.Report{}))
	written, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Contains(t, string(written), "<html")
	pipe := filepath.Join(folder, "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	read := make(chan string)
	go func() {
		text, _ := os.ReadFile(pipe)
		read <- string(text)
	}()
	require.NoError(t, WriteFile(pipe, &compare.Report{}))
	assert.Contains(t, <-read, "<html")
	assert.ErrorContains(t, WriteFile(folder, &compare.Report{}), "is a directory")
}

package page

import (
	"strings"
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

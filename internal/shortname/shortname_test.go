package shortname

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestNamesAreThoseOfThePythonSide(t *testing.T) {
	source, err := os.ReadFile("../../python/pyhook/_loading/names.py")
	require.NoError(t, err)
	for table, ours := range map[string][]string{"SHORT_NAMES": slices.Collect(maps.Keys(Hooks)), "STATE_SHORT_NAMES": States} {
		_, rest, found := strings.Cut(string(source), "\n"+table+" = {")
		require.True(t, found)
		rest, _, _ = strings.Cut(rest, "\n}")
		var python []string
		for _, match := range regexp.MustCompile(`"(\w+)": f"`).FindAllStringSubmatch(rest, -1) {
			python = append(python, match[1])
		}
		assert.ElementsMatch(t, python, ours, table)
	}
}

func TestIsHook(t *testing.T) {
	for _, spec := range []string{"allreduce", "fp16_wrapper(powersgd)", "bf16_wrapper(fp16_wrapper(noop))"} {
		assert.True(t, IsHook(spec), spec)
	}
	for _, spec := range []string{"", "go:fp16", "fp16_wrapper", "fp16_wrapper()", "my_wrapper(noop)", "fp16_wrapper(mine.py:hook)",
		"noop)", "fp16_wrapper(noop))", "noop\n", "fp16_wrapper(noop, eval('1'))"} {
		assert.False(t, IsHook(spec), spec)
	}
}

func TestIsState(t *testing.T) {
	assert.True(t, IsState("powersgd"))
	assert.False(t, IsState("powersgd()"))
}

package cli

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestHookNamesAreThoseOfThePythonSide(t *testing.T) {
	source, err := os.ReadFile("../../python/pyhook/_loading/names.py")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(source), "\nSHORT_NAMES = {")
	require.True(t, found)
	table, _, _ := strings.Cut(rest, "\n}")
	var python, mine []string
	for _, match := range regexp.MustCompile(`"(\w+)": f"`).FindAllStringSubmatch(table, -1) {
		python = append(python, match[1])
	}
	for name := range HookNames {
		if !strings.HasPrefix(name, "go:") {
			mine = append(mine, name)
		}
	}
	assert.ElementsMatch(t, python, mine)
}

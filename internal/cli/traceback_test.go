package cli

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestTracebacksShowTheUsersFrames(t *testing.T) {
	text := "Traceback (most recent call last):\n  File \"<embedded pyhook>/_load.py\", line 1, in f\n    x()\n    ^^^\n" +
		"  File \"<frozen importlib._bootstrap>\", line 2, in g\n  File \"/home/me/hooks.py\", line 3, in <module>\n    import nothing\nModuleNotFoundError: no\n"
	assert.Equal(t, "Traceback (most recent call last):\n  File \"/home/me/hooks.py\", line 3, in <module>\n    import nothing\nModuleNotFoundError: no\n", userFrames(text))
	assert.Empty(t, userFrames("Traceback (most recent call last):\n  File \"<embedded pyhook>/_load.py\", line 1, in f\n    x()\nKeyError: 1\n"))
}

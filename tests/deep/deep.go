// Package deep says how much of something a test does: PYHOOK_DEEP times as much as
// in `make test`.
package deep

import (
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// Times returns n, times the environment's PYHOOK_DEEP if it is set.
func Times(t testing.TB, n int) int {
	t.Helper()
	text := os.Getenv("PYHOOK_DEEP")
	if text == "" {
		return n
	}
	times, err := strconv.Atoi(text)
	require.NoError(t, err, "PYHOOK_DEEP")
	return n * times
}

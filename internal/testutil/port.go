package testutil

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"pyhook/internal/freeport"
)

// FreePort is a TCP port for the rank 0 of a test's job.
func FreePort(t testing.TB) string {
	t.Helper()
	port, err := freeport.Find()
	require.NoError(t, err)
	return strconv.Itoa(port)
}

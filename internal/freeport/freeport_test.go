package freeport

import (
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFind(t *testing.T) {
	low, high := given()
	found := map[int]bool{}
	for range 200 {
		port, err := Find()
		require.NoError(t, err)
		found[port] = true
		if high-low < 50000 {
			assert.False(t, low <= port && port <= high, "the kernel may give %d to a connection", port)
		}
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		require.NoError(t, err)
		require.NoError(t, l.Close())
	}
	assert.Greater(t, len(found), 150, "jobs that start at once get ports of their own")
}

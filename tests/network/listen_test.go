package network_test

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// listening returns where the processes of a rank's network namespace listen.
func listening(t *testing.T, r *rank) []netip.AddrPort {
	t.Helper()
	var found []netip.AddrPort
	for _, file := range []string{"tcp", "tcp6"} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", r.cmd.Process.Pid, file))
		require.NoError(t, err)
		for _, line := range strings.Split(string(data), "\n")[1:] {
			fields := strings.Fields(line)
			if len(fields) < 4 || fields[3] != "0A" { // TCP_LISTEN
				continue
			}
			host, port, _ := strings.Cut(fields[1], ":")
			bytes, err := hex.DecodeString(host)
			require.NoError(t, err)
			for word := range slices.Chunk(bytes, 4) { // in the host's order: little-endian
				slices.Reverse(word)
			}
			address, _ := netip.AddrFromSlice(bytes)
			number, err := strconv.ParseUint(port, 16, 16)
			require.NoError(t, err)
			found = append(found, netip.AddrPortFrom(address, uint16(number)))
		}
	}
	return found
}

func TestStore_Listens(t *testing.T) {
	t.Parallel()
	_, r := joined(t, 2, "pending")
	var store []netip.Addr
	for i, r := range r {
		for _, l := range listening(t, r) {
			if i == 0 && l.Port() == 29500 {
				store = append(store, l.Addr())
				continue
			}
			assert.Equal(t, dotted(i), l.Addr().String(), "gloo's, by GLOO_SOCKET_IFNAME")
		}
	}
	if torch := r[0].must("ready").Torch; strings.HasPrefix(torch, "1.") {
		require.Len(t, store, 1)
		assert.True(t, store[0].IsUnspecified(), "torch %s cannot be told: docs/security.md says so", torch)
	} else {
		assert.Equal(t, []netip.Addr{netip.MustParseAddr(dotted(0))}, store)
	}
}

func TestASecondJobAtThePortDoesTheFirstNoHarm(t *testing.T) {
	t.Parallel()
	w, r := joined(t, 2, "pending")
	stranger := startRank(t, w, rankConfig{Machine: 2, Rank: 1, Size: 2, Addr: dotted(0), Port: 29500, Timeout: timeout, Hook: "pending"})
	stranger.must("ready")
	stranger.send("join")
	refused(t, stranger, "ErrJoinTimeout", "another job")
	for _, r := range r {
		r.send("step")
	}
	for _, r := range r {
		a, err := r.hear(time.Minute)
		require.NoError(t, err)
		assert.True(t, a.OK && a.Sum, a.Err)
	}
}

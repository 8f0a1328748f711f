package wire

import (
	"io"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pair is a TCP connection over loopback.
func pair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := listener.Accept()
		if err == nil {
			accepted <- c
		}
		close(accepted)
	}()
	client, err = net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	server = <-accepted
	require.NotNil(t, server)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func sent(t *testing.T) uint64 {
	t.Helper()
	n, err := SentBytes()
	require.NoError(t, err)
	return n
}

// send writes n bytes and waits until the other end has read them.
func send(t *testing.T, from, to net.Conn, n int) {
	t.Helper()
	read := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, to, int64(n))
		read <- err
	}()
	_, err := from.Write(make([]byte, n))
	require.NoError(t, err)
	require.NoError(t, <-read)
}

func TestSentBytes(t *testing.T) {
	t.Run("counts the sending side to the byte", func(t *testing.T) {
		client, server := pair(t)
		before := sent(t)
		send(t, client, server, 1_234_567)
		send(t, server, client, 89)
		assert.EqualValues(t, 1_234_567+89, sent(t)-before)
	})
	t.Run("counts what the kernel has yet to send", func(t *testing.T) {
		client, server := pair(t)
		require.NoError(t, client.(*net.TCPConn).SetWriteBuffer(1<<20))
		require.NoError(t, server.(*net.TCPConn).SetReadBuffer(4<<10))
		before := sent(t)
		n, err := client.Write(make([]byte, 200_000)) // nobody reads
		require.NoError(t, err)
		assert.EqualValues(t, n, sent(t)-before)
	})
	t.Run("counts a duplicated descriptor once", func(t *testing.T) {
		client, server := pair(t)
		send(t, client, server, 1000)
		before := sent(t)
		file, err := client.(*net.TCPConn).File()
		require.NoError(t, err)
		defer file.Close()
		assert.Equal(t, before, sent(t))
	})
	t.Run("ignores pipes and UDP", func(t *testing.T) {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		defer r.Close()
		defer w.Close()
		udp, err := net.Dial("udp", "127.0.0.1:9")
		require.NoError(t, err)
		defer udp.Close()
		before := sent(t)
		_, err = w.Write(make([]byte, 100))
		require.NoError(t, err)
		_, _ = udp.Write(make([]byte, 100))
		assert.Equal(t, before, sent(t))
	})
}

func TestMeter_SentBytes(t *testing.T) {
	t.Run("keeps what closed sockets sent", func(t *testing.T) {
		var meter Meter
		client, server := pair(t)
		before, err := meter.SentBytes()
		require.NoError(t, err)
		send(t, client, server, 5000)
		between, err := meter.SentBytes()
		require.NoError(t, err)
		assert.EqualValues(t, 5000, between-before)
		client.Close()
		server.Close()
		after, err := meter.SentBytes()
		require.NoError(t, err)
		assert.Equal(t, between, after)
	})
}

func TestAtLeast(t *testing.T) {
	for release, want := range map[string]bool{
		"4.19.0": true, "4.19": true, "4.18.0-553.el8": false, "4.4.0": false, "6.1.0-13-amd64": true,
		"5.15.0": true, "10.0-rc1": true, "": false, "unknown": false, "4.19-rc1": true,
	} {
		assert.Equal(t, want, atLeast(release, 4, 19), release)
	}
}

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
	n, err := new(Meter).SentBytes()
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

func TestMeter_SentBytes(t *testing.T) {
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

func TestMeter_add(t *testing.T) {
	t.Run("closed and reused sockets", func(t *testing.T) {
		m := Meter{last: map[uint64]uint64{1: 10, 2: 20, 3: 30}, closed: 5}
		// 1 grew, 2 closed, 3 closed and its inode went to a new socket, 4 is new.
		assert.EqualValues(t, 5+20+30+15+7+4, m.add(map[uint64]uint64{1: 15, 3: 7, 4: 4}))
	})
}

// Package ipc is what a trainer and its worker share below their messages: framing with
// descriptors, shared memory, and the child process. It does not know of hooks.
package ipc

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Conn carries messages of type M, by gob, and descriptors over a stream socket. Send may be called
// from any goroutine, Receive from one.
type Conn[M any] struct {
	conn *net.UnixConn

	mu      sync.Mutex
	encoder *gob.Encoder
	buffer  bytes.Buffer

	decoder *gob.Decoder
	files   []*os.File // received and not yet asked for
}

// NewConn returns the connection over a socket, and takes file over.
func NewConn[M any](file *os.File) (*Conn[M], error) {
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("%s is not a unix socket", file.Name())
	}
	c := &Conn[M]{conn: unixConn}
	c.encoder, c.decoder = gob.NewEncoder(&c.buffer), gob.NewDecoder(c)
	return c, nil
}

// Send writes a message, and a descriptor with it unless file is nil. file stays
// the caller's.
func (c *Conn[M]) Send(m *M, file *os.File) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.buffer.Reset()
	if err := c.encoder.Encode(m); err != nil {
		return err
	}
	data := c.buffer.Bytes()
	if file != nil {
		// Fd would make the file blocking; a memfd is not pollable anyhow.
		n, _, err := c.conn.WriteMsgUnix(data, unix.UnixRights(int(file.Fd())), nil)
		if err != nil {
			return err
		}
		data = data[n:]
	}
	_, err := c.conn.Write(data)
	return err
}

// Receive reads a message. It comes from another process: the caller checks what is in it.
func (c *Conn[M]) Receive() (*M, error) {
	m := new(M)
	if err := c.decoder.Decode(m); err != nil {
		return nil, err
	}
	return m, nil
}

// Read is the decoder's: descriptors arrive with, or before, the bytes that they
// were sent with.
func (c *Conn[M]) Read(p []byte) (int, error) {
	control := make([]byte, unix.CmsgSpace(4*8))
	n, controls, _, _, err := c.conn.ReadMsgUnix(p, control)
	if controls > 0 {
		if err := c.keep(control[:controls]); err != nil {
			return 0, err
		}
	}
	if n <= 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

func (c *Conn[M]) keep(control []byte) error {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			c.files = append(c.files, os.NewFile(uintptr(fd), "shared memory"))
		}
	}
	if len(c.files) > filesAtMost {
		return fmt.Errorf("%d descriptors came, and no message for them", len(c.files))
	}
	return nil
}

// File hands out the descriptor of the message that was received last. The caller
// closes it.
func (c *Conn[M]) File() (*os.File, error) {
	if len(c.files) == 0 {
		return nil, errors.New("a message came without its descriptor")
	}
	f := c.files[0]
	c.files = c.files[1:]
	return f, nil
}

// Close ends the connection. Receive then returns an error.
func (c *Conn[M]) Close() { c.conn.Close() }

// Drop closes the descriptors that File did not hand out. For the goroutine that calls Receive.
func (c *Conn[M]) Drop() {
	for _, f := range c.files {
		f.Close()
	}
	c.files = nil
}

// filesAtMost is how many descriptors may be ahead of their messages: a read takes
// several messages.
const filesAtMost = 256

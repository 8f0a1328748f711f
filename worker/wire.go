package worker

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

// wire carries messages and descriptors over a stream socket. send may be called
// from any goroutine, receive from one.
type wire struct {
	conn *net.UnixConn

	mu      sync.Mutex
	encoder *gob.Encoder
	buffer  bytes.Buffer

	decoder *gob.Decoder
	files   []*os.File // received and not yet asked for
}

// newWire takes file over.
func newWire(file *os.File) (*wire, error) {
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
	w := &wire{conn: unixConn}
	w.encoder, w.decoder = gob.NewEncoder(&w.buffer), gob.NewDecoder(w)
	return w, nil
}

// send writes a message, and a descriptor with it unless file is nil. file stays
// the caller's.
func (w *wire) send(m *message, file *os.File) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.buffer.Reset()
	if err := w.encoder.Encode(m); err != nil {
		return err
	}
	data := w.buffer.Bytes()
	if file != nil {
		// Fd would make the file blocking; a memfd is not pollable anyhow.
		n, _, err := w.conn.WriteMsgUnix(data, unix.UnixRights(int(file.Fd())), nil)
		if err != nil {
			return err
		}
		data = data[n:]
	}
	_, err := w.conn.Write(data)
	return err
}

// receive reads a message. Its descriptors are in files, in the order of sending.
func (w *wire) receive() (*message, error) {
	m := &message{}
	if err := w.decoder.Decode(m); err != nil {
		return nil, err
	}
	return m, m.check()
}

// Read is the decoder's: descriptors arrive with, or before, the bytes that they
// were sent with.
func (w *wire) Read(p []byte) (int, error) {
	control := make([]byte, unix.CmsgSpace(4*8))
	n, controls, _, _, err := w.conn.ReadMsgUnix(p, control)
	if controls > 0 {
		if err := w.keep(control[:controls]); err != nil {
			return 0, err
		}
	}
	if n <= 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

func (w *wire) keep(control []byte) error {
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
			w.files = append(w.files, os.NewFile(uintptr(fd), "shared memory"))
		}
	}
	if len(w.files) > filesAtMost {
		return fmt.Errorf("%d descriptors came, and no message for them", len(w.files))
	}
	return nil
}

// file hands out the descriptor of the message that was received last. The caller
// closes it.
func (w *wire) file() (*os.File, error) {
	if len(w.files) == 0 {
		return nil, errors.New("a message came without its descriptor")
	}
	f := w.files[0]
	w.files = w.files[1:]
	return f, nil
}

func (w *wire) close() {
	w.conn.Close()
}

// drop closes the descriptors that file did not hand out. For the goroutine that calls receive.
func (w *wire) drop() {
	for _, f := range w.files {
		f.Close()
	}
	w.files = nil
}

// filesAtMost is how many descriptors may be ahead of their messages: a read takes
// several messages.
const filesAtMost = 256

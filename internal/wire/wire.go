package wire

import (
	"errors"
	"sync"
)

// ErrUnsupported means that this system does not count the bytes of its sockets.
var ErrUnsupported = errors.New("bytes on the wire cannot be counted here: that needs Linux 4.19 or newer and /proc")

// SentBytes returns the TCP payload that this process sent over the sockets
// that are open now. It falls when a socket closes: see Meter.
func SentBytes() (uint64, error) {
	sockets, err := openSockets()
	if err != nil {
		return 0, err
	}
	var sum uint64
	for _, sent := range sockets {
		sum += sent
	}
	return sum, nil
}

// Meter adds up over the life of a process: its sum keeps the bytes of closed
// sockets, as of the last measurement before. The zero Meter is ready to use. It
// is safe for concurrent use.
type Meter struct {
	mu     sync.Mutex
	last   map[uint64]uint64 // inode of a socket -> bytes sent, at the last measurement
	closed uint64            // bytes of sockets that closed
}

// SentBytes measures and returns the sum, which never falls.
func (m *Meter) SentBytes() (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sockets, err := openSockets()
	if err != nil {
		return 0, err
	}
	sum := m.add(sockets)
	m.last = sockets
	return sum, nil
}

// add returns the sum with these sockets, and moves the bytes of closed ones to m.closed. An
// inode whose count fell now belongs to another socket.
func (m *Meter) add(sockets map[uint64]uint64) uint64 {
	for inode, before := range m.last {
		if now, open := sockets[inode]; !open || now < before {
			m.closed += before
		}
	}
	sum := m.closed
	for _, sent := range sockets {
		sum += sent
	}
	return sum
}

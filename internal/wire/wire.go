package wire

import (
	"errors"
	"sync"
)

// ErrUnsupported: this system does not count the bytes of its sockets.
var ErrUnsupported = errors.New("bytes on the wire cannot be counted here: that needs Linux 4.19 or newer and /proc")

// SentBytes returns the TCP payload that this process sent over the sockets
// that are open now. It falls when a socket closes: see Meter.
func SentBytes() (uint64, error) {
	sockets, err := look()
	if err != nil {
		return 0, err
	}
	var sum uint64
	for _, sent := range sockets {
		sum += sent
	}
	return sum, nil
}

// Meter adds up over the life of a process: what sockets sent before they
// closed stays in the sum, as of the last look at them. The zero Meter is
// ready; it may be used from any goroutine.
type Meter struct {
	mu   sync.Mutex
	last map[uint64]uint64 // inode of a socket -> bytes sent, at the last look
	gone uint64            // of sockets that closed
}

// SentBytes looks now and returns the sum, which never falls.
func (m *Meter) SentBytes() (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sockets, err := look()
	if err != nil {
		return 0, err
	}
	sum := m.settle(sockets)
	m.last = sockets
	return sum, nil
}

// settle moves what the closed sockets sent to gone. An inode whose count fell
// was given to another socket.
func (m *Meter) settle(sockets map[uint64]uint64) uint64 {
	for inode, before := range m.last {
		if now, open := sockets[inode]; !open || now < before {
			m.gone += before
		}
	}
	sum := m.gone
	for _, sent := range sockets {
		sum += sent
	}
	return sum
}

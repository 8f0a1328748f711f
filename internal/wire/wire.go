// Package wire measures how many bytes this process put on its TCP connections,
// as the kernel counts them: so the saving of a compression hook is measured and
// not computed.
//
// It counts the payload of every open TCP socket of the process, with gloo's
// message headers and torch's store, without retransmissions. It includes bytes
// that the program wrote and the kernel has yet to send, so the number is
// complete as soon as a collective is done.
//
// It does not count shared memory and NVLink (NCCL inside one machine),
// InfiniBand and RDMA, nor a socket that was opened and closed between two
// measurements. A Meter keeps the last count of sockets that closed later.
//
// It needs Linux 4.19 or newer.
package wire

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrUnsupported means that this system does not count the bytes of its sockets.
var ErrUnsupported = errors.New("bytes on the wire cannot be counted here: that needs Linux 4.19 or newer and /proc")

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

const descriptors = "/proc/self/fd"

// supported returns an error before Linux 4.19, which added tcpi_bytes_sent (ba113c3aa79a).
// An older kernel leaves it 0, which would read as "nothing was sent".
var supported = sync.OnceValue(func() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil || major < 4 || major == 4 && minor < 19 {
		return fmt.Errorf("%w: this is Linux %s", ErrUnsupported, release)
	}
	return nil
})

// openSockets returns the bytes that each open TCP socket sent, by the socket's inode:
// duplicated descriptors are one socket.
func openSockets() (map[uint64]uint64, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	dir, err := os.Open(descriptors)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	sockets := map[uint64]uint64{}
	for _, name := range names {
		inode, ok := socketInode(name)
		if !ok {
			continue
		}
		fd, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		sent, ok, err := sentBy(fd)
		if err != nil {
			return nil, err
		}
		if ok {
			sockets[inode] = sent
		}
	}
	return sockets, nil
}

// socketInode returns the inode of a descriptor, and false if it is not a socket or was closed
// meanwhile.
func socketInode(name string) (uint64, bool) {
	target, err := os.Readlink(descriptors + "/" + name)
	if err != nil {
		return 0, false
	}
	text, ok := strings.CutPrefix(target, "socket:[")
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64)
	return inode, err == nil
}

// sentBy asks the kernel for a socket's bytes. ok is false if it is not TCP or was closed
// meanwhile.
func sentBy(fd int) (sent uint64, ok bool, err error) {
	if protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || protocol != unix.IPPROTO_TCP {
		return 0, false, nil
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	switch {
	case errors.Is(err, unix.EBADF), errors.Is(err, unix.ENOTSOCK):
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("asking for TCP_INFO: %w", err)
	}
	return info.Bytes_sent - info.Bytes_retrans + uint64(info.Notsent_bytes), true, nil
}

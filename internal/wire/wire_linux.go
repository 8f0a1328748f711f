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

const descriptors = "/proc/self/fd"

// supported returns an error before Linux 4.19, which added tcpi_bytes_sent (ba113c3aa79a).
// An older kernel leaves it 0, which would read as "nothing was sent".
var supported = sync.OnceValue(func() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	if !atLeast(release, 4, 19) {
		return fmt.Errorf("%w: this is Linux %s", ErrUnsupported, release)
	}
	return nil
})

func atLeast(release string, major, minor int) bool {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return false
	}
	a, err := strconv.Atoi(parts[0])
	if err != nil {
		return false
	}
	digits := strings.IndexFunc(parts[1], func(r rune) bool { return r < '0' || r > '9' })
	if digits >= 0 {
		parts[1] = parts[1][:digits]
	}
	b, err := strconv.Atoi(parts[1])
	return err == nil && (a > major || a == major && b >= minor)
}

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

package pyhook

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// connections finds the TCP connections of gloo groups, to end them without waiting for Python:
// gloo itself ends them when the group's last reference is dropped, and then first waits for its own
// collectives. Each group of gloo has a thread that polls its sockets by an epoll object, of which
// Linux tells what is in it. So those in which there are sockets that were opened while a group was
// made are the group's. Where there is no /proc, none is found.
type connections struct {
	mu     sync.Mutex
	epolls []int
}

// during calls f, which makes a group, and adds the group's.
func (c *connections) during(f func()) {
	before := descriptors("socket:")
	f()
	opened := descriptors("socket:")
	maps.DeleteFunc(opened, func(fd int, socket string) bool { return before[fd] == socket })
	gos, release := polledByGo()
	defer release()
	c.mu.Lock()
	defer c.mu.Unlock()
	for epoll := range descriptors("anon_inode:[eventpoll]") {
		polled := polledByGloo(epoll)
		if !slices.Contains(polled, gos) && slices.ContainsFunc(polled, func(fd int) bool { return opened[fd] != "" }) {
			c.epolls = append(c.epolls, epoll)
		}
	}
}

// polledByGo returns a descriptor, until release, that Go's own epoll object has. In a program that is
// position independent that object, too, notes addresses.
func polledByGo() (fd int, release func()) {
	r, w, err := os.Pipe()
	if err != nil {
		return -1, func() {}
	}
	fd = -1
	if raw, err := r.SyscallConn(); err == nil {
		_ = raw.Control(func(own uintptr) { fd = int(own) })
	}
	return fd, func() { r.Close(); w.Close() }
}

// end shuts down the connections. What waits for them, on this rank and on others, then fails.
func (c *connections) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, epoll := range c.epolls {
		for _, fd := range polledByGloo(epoll) {
			shutdown(epoll, fd)
		}
	}
	c.epolls = nil
}

// descriptors returns those of the process whose name in /proc begins with kind.
func descriptors(kind string) map[int]string {
	found := map[int]string{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join("/proc/self/fd", entry.Name()))
		if err != nil || !strings.HasPrefix(target, kind) {
			continue
		}
		if fd, err := strconv.Atoi(entry.Name()); err == nil {
			found[fd] = target
		}
	}
	return found
}

// polledByGloo returns the descriptors in an epoll object; none if it is not one of gloo's, which
// notes with each the address of what handles it. Python and libuv note the descriptor.
func polledByGloo(epoll int) (fds []int) {
	info, _ := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", epoll))
	for line := range strings.Lines(string(info)) {
		var fd int
		var events, data uint64
		if _, err := fmt.Sscanf(line, "tfd: %d events: %x data: %x", &fd, &events, &data); err != nil {
			continue
		}
		if data < 1<<32 {
			return nil
		}
		fds = append(fds, fd)
	}
	return fds
}

// shutdown ends a connection that epoll polls as fd, and no other socket that has come to have that
// number. It leaves listeners: gloo ends the process where accept fails.
func shutdown(epoll, fd int) {
	same, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(same)
	listens, err := unix.GetsockoptInt(same, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err == nil && listens == 0 && slices.Contains(polledByGloo(epoll), fd) {
		_ = unix.Shutdown(same, unix.SHUT_RDWR)
	}
}

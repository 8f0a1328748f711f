package network_test

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const device = "wire0"

func address(rank int) [4]byte { return [4]byte{10, 9, 0, byte(rank + 1)} }

func dotted(rank int) string {
	a := address(rank)
	return fmt.Sprintf("%d.%d.%d.%d", a[0], a[1], a[2], a[3])
}

// plug makes this process's network, which is a new namespace: loopback, and a device
// whose other end it returns.
func plug(rank int) (int, error) {
	tun, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("/dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(device)
	if err != nil {
		return 0, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(tun, unix.TUNSETIFF, request); err != nil {
		return 0, fmt.Errorf("making the device: %w", err)
	}
	control, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(control)
	a := address(rank)
	for _, step := range []struct {
		name    string
		request uint
		inet    []byte
	}{
		{"lo", unix.SIOCSIFFLAGS, nil},
		{device, unix.SIOCSIFADDR, a[:]},
		{device, unix.SIOCSIFNETMASK, []byte{255, 255, 255, 0}},
		{device, unix.SIOCSIFMTU, nil},
		{device, unix.SIOCSIFFLAGS, nil},
	} {
		request, err := unix.NewIfreq(step.name)
		if err != nil {
			return 0, err
		}
		switch {
		case step.request == unix.SIOCSIFMTU:
			request.SetUint32(9000)
		case step.inet == nil:
			request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		}
		if step.inet != nil {
			if err := request.SetInet4Addr(step.inet); err != nil {
				return 0, err
			}
		}
		if err := unix.IoctlIfreq(control, step.request, request); err != nil {
			return 0, fmt.Errorf("setting up %s: %w", step.name, err)
		}
	}
	return tun, nil
}

// wire carries packets between the ranks' devices.
type wire struct {
	mu      sync.Mutex
	ends    map[[4]byte]*end
	cut     atomic.Bool  // packets are dropped, and nobody is told
	delay   atomic.Int64 // ns
	perByte atomic.Int64 // ns, to each rank
}

type end struct {
	tun   *os.File
	queue chan packet
}

type packet struct {
	data []byte
	due  time.Time
}

func newWire() *wire { return &wire{ends: map[[4]byte]*end{}} }

// attach takes a device's other end over.
func (w *wire) attach(rank, tun int) {
	e := &end{os.NewFile(uintptr(tun), device), make(chan packet, 128)}
	w.mu.Lock()
	w.ends[address(rank)] = e
	w.mu.Unlock()
	go w.read(e)
	go w.write(e)
}

func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.ends {
		e.tun.Close()
	}
}

func (w *wire) read(from *end) {
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.tun.Read(buffer)
		if err != nil {
			return // the rank is gone, or the test over
		}
		if n < 20 || buffer[0]>>4 != 4 {
			continue
		}
		w.mu.Lock()
		to := w.ends[[4]byte(buffer[16:20])]
		w.mu.Unlock()
		if to == nil {
			continue
		}
		select {
		case to.queue <- packet{append([]byte(nil), buffer[:n]...), time.Now().Add(time.Duration(w.delay.Load()))}:
		default: // a router's queue that is full
		}
	}
}

func (w *wire) write(to *end) {
	var free time.Time // when the last packet is through
	for p := range to.queue {
		if free.Before(p.due) {
			free = p.due
		}
		free = free.Add(time.Duration(w.perByte.Load() * int64(len(p.data))))
		time.Sleep(time.Until(free))
		if w.cut.Load() {
			continue
		}
		if _, err := to.tun.Write(p.data); err != nil {
			return
		}
	}
}

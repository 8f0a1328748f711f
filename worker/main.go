package worker

import (
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"pyhook/launch"
	"pyhook/worker/internal/ipc"
)

// variable makes a process a worker.
const variable = "PYHOOK_WORKER"

// What a worker inherits, after the standard streams.
const (
	socketFD = 3 + iota
	vitalsFD
	stacksFD
)

var armed atomic.Bool

// Main makes this process a worker, if Start started it to be one; then it does not
// return. Call it first in main, and in tests in TestMain:
//
//	func main() {
//		worker.Main()
//		...
//	}
//
// It cannot happen in an init function by itself: until those are done Go holds up
// every call that comes from a thread of C, as torch's callbacks do.
func Main() {
	armed.Store(true)
	if os.Getenv(variable) == "" {
		return
	}
	os.Unsetenv(variable) // what a hook starts is no worker
	if err := beWorker(); err != nil {
		fmt.Fprintln(os.Stderr, "pyhook worker:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func beWorker() error {
	if err := launch.DieWithParent(); err != nil {
		return err
	}
	// The name that top and ps show without arguments; it is "exe" else. Only for people.
	_ = os.WriteFile("/proc/self/comm", []byte("pyhook-worker"), 0)
	var files [3]*os.File
	for i, fd := range []int{socketFD, vitalsFD, stacksFD} {
		unix.CloseOnExec(fd)
		files[i] = os.NewFile(uintptr(fd), "from the trainer")
	}
	w, err := ipc.NewConn[message](files[0])
	if err != nil {
		return err
	}
	page, err := ipc.MapRegion(0, files[1], vitalsBytes)
	if err != nil {
		return err
	}
	files[1].Close()
	s := newServer(w, vitalsIn(page), files[2])
	go s.beat()
	return s.serve()
}

// beat shows that the process gets time. It needs nothing of Python's, which a hook
// may hold for long.
func (s *server) beat() {
	for range time.Tick(beatEvery) {
		s.vitals.heartbeat.Add(1)
	}
}

// onThreadOfItsOwn runs f on an OS thread that ends with it.
func onThreadOfItsOwn(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

package cbridge

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func init() {
	children["signals"] = childSignals
	children["closed pipes"] = childClosedPipes
}

// SigBlk is not asked: it is the first thread's alone, and Go blocks all signals
// there for a moment whenever that thread starts another.
var signalMask = regexp.MustCompile(`Sig(?:Ign|Cgt):\s*([0-9a-f]+)`)

// dispositions reads which signals the process ignores and catches; empty where
// there is no /proc.
func dispositions() string {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return ""
	}
	return fmt.Sprint(signalMask.FindAllString(string(status), -1))
}

// receive sends sig to this process and waits until Go has it.
func receive(is *require.Assertions, notified <-chan os.Signal, sig syscall.Signal) {
	is.NoError(syscall.Kill(os.Getpid(), sig))
	select {
	case got := <-notified:
		is.Equal(sig, got)
	case <-time.After(10 * time.Second):
		is.Fail("Go did not get the signal", "%v", sig)
	}
}

func nilPointerIsRecovered(is *require.Assertions) {
	defer func() { is.ErrorContains(recover().(error), "nil pointer dereference") }()
	var p *builder
	_ = p.data[0]
}

func childSignals(is *require.Assertions) {
	notified := make(chan os.Signal, 8)
	signal.Notify(notified, syscall.SIGINT, syscall.SIGTERM)
	before := dispositions()
	in := mustStart(is, Config{})
	is.Equal(before, dispositions(), "Start changed a signal's disposition")
	receive(is, notified, syscall.SIGINT)
	receive(is, notified, syscall.SIGTERM)
	nilPointerIsRecovered(is)

	is.NoError(in.RunOnMain(context.Background(), func() {
		run(is, in, "import signal\nassert signal.getsignal(signal.SIGINT) is None, signal.getsignal(signal.SIGINT)\n")
	}))
	is.Equal(before, dispositions(), "import signal changed a signal's disposition")
	receive(is, notified, syscall.SIGINT)
	run(is, in, "sum(range(1000))\n") // and no KeyboardInterrupt is pending
	is.NoError(in.RunOnMain(context.Background(), func() { run(is, in, "sum(range(1000))\n") }))
	nilPointerIsRecovered(is)

	// A signal in the midst of Python code goes to Go too.
	done := make(chan error)
	go func() {
		m, err := in.Module("busy", "import time\nend = time.time() + 0.3\nwhile time.time() < end: pass\ntime.sleep(0.2)\n")
		m.Close()
		done <- err
	}()
	for range 4 {
		time.Sleep(50 * time.Millisecond)
		receive(is, notified, syscall.SIGINT)
	}
	is.NoError(<-done)
	is.NoError(in.Close())
	fmt.Println("signals are Go's")
}

func TestStart_Signals(t *testing.T) {
	t.Run("they stay Go's", func(t *testing.T) {
		assert.Equal(t, "signals are Go's\n", runChild(t, "signals"))
	})
	// On a thread that is not Go's, as torch's are not, SIGPIPE and SIGXFSZ ended the process.
	t.Run("a write to a closed pipe is an error on every thread", func(t *testing.T) {
		runChild(t, "closed pipes")
	})
}

func childClosedPipes(is *require.Assertions) {
	in := mustStart(is, Config{})
	defer in.Close()
	run(is, in, `import os, resource, socket, tempfile, threading
caught = []
def write(fd):
    try:
        while True:
            os.write(fd, b"x" * 4096)
    except OSError as error:
        caught.append(type(error).__name__ + " " + os.strerror(error.errno))
ours, theirs = socket.socketpair()
theirs.close()
reading, writing = os.pipe()
os.close(reading)
file, _ = tempfile.mkstemp()
os.unlink(_)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for fd in (ours.fileno(), writing, file):
    thread = threading.Thread(target=write, args=(fd,))
    thread.start()
    thread.join()
    write(fd)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
assert caught == 4 * ["BrokenPipeError Broken pipe"] + 2 * ["OSError File too large"], caught
`)
	// And of Go's own files. A program that is started does not ignore SIGPIPE.
	r, w, err := os.Pipe()
	is.NoError(err)
	is.NoError(r.Close())
	_, err = w.WriteString("x")
	is.ErrorIs(err, syscall.EPIPE)
	err = exec.Command("sh", "-c", "kill -PIPE $$").Run()
	var exit *exec.ExitError
	is.ErrorAs(err, &exit)
	is.Equal(syscall.SIGPIPE, exit.Sys().(syscall.WaitStatus).Signal())
}

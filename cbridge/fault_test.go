package cbridge

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func init() {
	children["faults"] = childFaults
	children["faults released"] = childFaultsReleased
	children["python's signals"] = childPythonsSignals
}

// takers are programs that take Go's handler of SIGSEGV, and on which thread.
var takers = []struct {
	source string
	main   bool
}{
	{"import faulthandler\nfaulthandler.enable()\nassert faulthandler.is_enabled()\n", true},
	{"from faulthandler import enable\nenable(all_threads=False)\n", false},
	{"import faulthandler\nfaulthandler.enable(); faulthandler.disable()\n", true},
	{"import signal\nsignal.signal(signal.SIGSEGV, lambda *_: None)\nassert callable(signal.getsignal(signal.SIGSEGV))\n", true},
	{"import _signal\nfor s in _signal.SIGBUS, _signal.SIGFPE, _signal.SIGILL, _signal.SIGABRT: _signal.signal(s, lambda *_: None)\n", true},
	{"import signal\nsignal.signal(signal.SIGSEGV, signal.SIG_DFL)\n", true},
}

func childFaults(is *require.Assertions) {
	before := dispositions()
	in := mustStart(is, Config{})
	is.Equal(before, dispositions(), "Start changed a signal's disposition")
	nilPointerIsRecovered(is)
	for _, taker := range takers {
		if taker.main {
			is.NoError(in.RunOnMain(context.Background(), func() { run(is, in, taker.source); nilPointerIsRecovered(is) }))
		} else {
			run(is, in, taker.source)
		}
		nilPointerIsRecovered(is)
		is.Equal(before, dispositions(), taker.source)
	}
	// A library of C asks nobody. Its signals are put back by whoever called it.
	if ignore(in.Import("ctypes")) == nil {
		run(is, in, "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.signal.restype = ctypes.c_void_p\n"+
			"for s in 4, 6, 7, 8, 11: libc.signal(s, None)\n")
		is.NotEqual(before, dispositions())
		KeepFaults()
		is.Equal(before, dispositions())
		nilPointerIsRecovered(is)
	}
	is.NoError(in.Close())
	nilPointerIsRecovered(is)
	fmt.Println("recovered")
}

func TestKeepFaults(t *testing.T) {
	for _, env := range []string{"PYTHONFAULTHANDLER=", "PYTHONFAULTHANDLER=1", "PYTHONDEVMODE=1"} {
		t.Run(env, func(t *testing.T) { assert.Equal(t, "recovered\n", runChild(t, "faults", env)) })
	}
}

func childFaultsReleased(is *require.Assertions) {
	in := mustStart(is, Config{})
	before := dispositions()
	signal.Ignore(syscall.SIGABRT)
	ReleaseFaults()
	KeepFaults()
	is.NotEqual(before, dispositions(), "they are kept no more")
	run(is, in, "import faulthandler, os\nfaulthandler.enable(open(os.environ['CHILD_FILE'], 'w'))\nfaulthandler._sigsegv\n")
	is.NoError(syscall.Kill(os.Getpid(), syscall.SIGSEGV))
	time.Sleep(10 * time.Second)
}

func TestReleaseFaults(t *testing.T) {
	t.Run("faulthandler prints them", func(t *testing.T) {
		file := t.TempDir() + "/stacks"
		cmd := childCommand(t, "faults released", "CHILD_FILE="+file)
		out, err := cmd.CombinedOutput()
		require.Error(t, err, "%s", out)
		said, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Contains(t, string(said), "Fatal Python error: Segmentation fault")
	})
}

// Python code has handlers, and so may the program: both are told.
func childPythonsSignals(is *require.Assertions) {
	before := dispositions()
	in := mustStart(is, Config{})
	notified := make(chan os.Signal, 8)
	signal.Notify(notified, syscall.SIGTERM)
	is.NoError(in.RunOnMain(context.Background(), func() {
		run(is, in, `import signal, sys, threading, types
seen = sys.modules["seen"] = types.ModuleType("seen")
seen.list = []
def note(number, frame):
    assert threading.current_thread() is threading.main_thread()
    seen.list.append(int(number))
for number in signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGALRM:
    assert signal.signal(number, note) is None
    assert signal.getsignal(number) is note
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # or the next would be the last
`)
	}))
	is.Equal(before, dispositions(), "the kernel's handlers are Go's")
	list := func() any {
		m, err := in.Import("seen")
		is.NoError(err)
		defer m.Close()
		list, err := m.Attr("list")
		is.NoError(err)
		defer list.Close()
		v, err := list.Value()
		is.NoError(err)
		return v
	}
	is.NoError(syscall.Kill(os.Getpid(), syscall.SIGHUP))
	want := []any{}
	for _, sig := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGTERM, syscall.SIGUSR2, syscall.SIGUSR1} {
		is.NoError(syscall.Kill(os.Getpid(), sig))
		want = append(want, int64(sig))
		is.Eventually(func() bool { return assert.ObjectsAreEqual(want, list()) }, 10*time.Second, time.Millisecond, "%v: %v", want, list)
	}
	is.Equal(os.Signal(syscall.SIGTERM), <-notified)
	// In the midst of a loop on the main thread, as under the python command.
	is.NoError(in.RunOnMain(context.Background(), func() {
		run(is, in, `import seen, signal, time
signal.setitimer(signal.ITIMER_REAL, 0.05)
end = time.monotonic() + 10
while seen.list[-1] != signal.SIGALRM and time.monotonic() < end: time.sleep(0.001)
assert seen.list[-1] == signal.SIGALRM
def fails(*_): raise ValueError("of a handler")
signal.signal(signal.SIGUSR1, fails)
try:
    signal.raise_signal(signal.SIGUSR1)
    end = time.monotonic() + 10
    while time.monotonic() < end: time.sleep(0.001)
    raise AssertionError("no signal")
except ValueError: pass
signal.signal(signal.SIGTERM, signal.SIG_DFL)
`)
	}))
	is.NoError(syscall.Kill(os.Getpid(), syscall.SIGTERM))
	is.Equal(os.Signal(syscall.SIGTERM), <-notified)
	is.Equal(before, dispositions())
	is.NoError(in.Close())
	fmt.Println("told both")
}

func TestStart_SignalHandlers(t *testing.T) {
	t.Run("Python's run beside Go's", func(t *testing.T) {
		assert.Equal(t, "told both\n", runChild(t, "python's signals"))
	})
}

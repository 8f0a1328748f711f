package cbridge

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func init() { children["forks"] = childForks }

// A child of os.fork has no Go that signals could be told to.
func childForks(is *require.Assertions) {
	signal.Notify(make(chan os.Signal, 8), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	in := mustStart(is, Config{})
	const source = `import multiprocessing, os, signal, time
def end(number, at_once):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b"x")
        time.sleep(30)
        os._exit(1)
    if not at_once:
        os.read(reading, 1)
    os.kill(pid, number)
    _, status = os.waitpid(pid, 0)
    os.close(reading); os.close(writing)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == number, (number, status)
for number in map(int, signal.valid_signals()):
    if signal.Signals.SIGHUP <= number <= signal.Signals.SIGSYS and number not in (
        signal.SIGCHLD, signal.SIGCONT, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
        signal.SIGURG, signal.SIGWINCH, signal.SIGPIPE, signal.SIGXFSZ,
    ):
        end(number, False)
for _ in range(20):
    end(signal.SIGTERM, True)  # none is lost while the child begins
def child():
    time.sleep(30)
process = multiprocessing.get_context("fork").Process(target=child)
process.start(); process.terminate(); process.join(5)
assert process.exitcode == -signal.SIGTERM, process.exitcode
pid = os.fork()
if pid == 0:  # as under the python command, a broken pipe is an error and no end
    reading, writing = os.pipe()
    os.close(reading)
    try: os.write(writing, b"x")
    except BrokenPipeError: os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
`
	run(is, in, source)                                                            // on any thread
	is.NoError(in.RunOnMain(context.Background(), func() { run(is, in, source) })) // and Python's main one
	is.NoError(in.RunOnMain(context.Background(), func() {
		run(is, in, `import os, signal, time
def note(*_): os._exit(9)
signal.signal(signal.SIGTERM, note)  # what Python handles it handles in a child too
reading, writing = os.pipe()
pid = os.fork()
if pid == 0:
    os.write(writing, b"x")
    while True: time.sleep(0.01)
os.read(reading, 1)
os.kill(pid, signal.SIGTERM)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
pid = os.fork()
if pid == 0:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(8))
    os.write(writing, b"x")
    while True: time.sleep(0.01)
os.read(reading, 1)
os.kill(pid, signal.SIGTERM)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 8
`)
	}))
	nilPointerIsRecovered(is)
	is.NoError(in.Close())
	fmt.Println("ended")
}

func TestStart_Fork(t *testing.T) {
	t.Run("a forked child ends by signals", func(t *testing.T) {
		assert.Equal(t, "ended\n", runChild(t, "forks"))
	})
}

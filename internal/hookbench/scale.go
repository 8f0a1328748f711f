package hookbench

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"pyhook/internal/ctest"
)

// forScale times what one would do without pyhook.
func (b *bench) forScale(j *job, r *Row) error {
	const calls = 2000
	naive, err := b.naive(calls)
	if err != nil {
		return fmt.Errorf("the naive way: %w", err)
	}
	pipe, err := b.pipe(j, calls)
	if err != nil {
		return fmt.Errorf("the pipe: %w", err)
	}
	r.NaiveUS, r.PipeUS = micro(naive, 0.5), micro(pipe, 0.5)
	return nil
}

// timed stores the nanoseconds of each call of f.
func timed(calls int, f func() error) ([]int64, error) {
	ns := make([]int64, calls)
	before := time.Since(start)
	for i := range ns {
		if err := f(); err != nil {
			return nil, err
		}
		after := time.Since(start)
		ns[i] = int64(after - before)
		before = after
	}
	return ns, nil
}

func (b *bench) naive(calls int) (ns []int64, err error) {
	state, err := b.newState(nil)
	if err != nil {
		return nil, err
	}
	f, err := b.keep(b.loops.Call("Naive", b.hook, state, uintptr(b.buffer.Data()), b.goSide.bucket.Lengths(), b.goSide.bucket.Sizes()))
	if err != nil {
		return nil, err
	}
	ctest.Init()
	err = f.Pointer(func(p unsafe.Pointer) error {
		var inner error
		onFreshThread(func() {
			ns, inner = timed(calls, func() error {
				if !ctest.Ensured(p) { // as every wrapper of the GIL does it: the state lives for this call only
					return errors.New("the call failed")
				}
				return nil
			})
		})
		return inner
	})
	return ns, err
}

// onFreshThread runs f locked to an OS thread that keeps no thread state. Those
// that do are held until such a one comes.
func onFreshThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if ctest.HasState() {
			onFreshThread(f)
			return
		}
		f()
	}()
	<-done
}

// pipe times a round trip of a byte to a Python process that runs the hook.
func (b *bench) pipe(j *job, calls int) ([]int64, error) {
	args := []string{j.Loops}
	for _, n := range b.goSide.bucket.Lengths() {
		args = append(args, strconv.FormatInt(n, 10))
	}
	cmd := exec.Command(j.Python, args...)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+strings.Join(j.Path, ":"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	message := []byte{'.'}
	ns, err := timed(calls, func() error {
		if _, err := in.Write(message); err != nil {
			return err
		}
		_, err := io.ReadFull(out, message)
		return err
	})
	return ns, errors.Join(err, in.Close(), cmd.Wait())
}

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pyhook/tests/bench/peers/side"
)

// What a side's process reads from its environment.
const (
	sideVariable   = "PYHOOK_PEERS_SIDE"   // the side that this program is
	rankVariable   = "PYHOOK_PEERS_RANK"   // 0 or 1, where there are two
	storeVariable  = "PYHOOK_PEERS_STORE"  // the file where two ranks meet
	pythonVariable = "PYHOOK_PEERS_PYTHON" // the interpreter
)

// pythonFolder has hooks.py and the children's programs, seen from this module's folder.
const pythonFolder = "python"

// limit is how long an order may take: what takes longer hangs, and is killed.
func limit(o side.Order) time.Duration {
	if o.Endure {
		return time.Hour
	}
	return 5 * time.Minute
}

// runner is a started side.
type runner interface {
	do(side.Order) (side.Answer, error)
	close() error
}

// process is a side that is one process.
type process struct {
	cmd     *exec.Cmd
	orders  io.WriteCloser
	answers *os.File
	decoder *json.Decoder
	encode  func(w io.Writer, o side.Order) error
}

func encodeJSON(w io.Writer, o side.Order) error { return json.NewEncoder(w).Encode(o) }

// self starts this program as a side.
func self(name string, env ...string) (*process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return startProcess(append(env, sideVariable+"="+name), program)
}

// startProcess starts a program that calls side.Serve.
func startProcess(env []string, command ...string) (*process, error) {
	orders, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer orders.Close()
	from, answers, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, to.Close())
	}
	defer answers.Close()
	cmd := newCommand(env, command...)
	cmd.ExtraFiles = []*os.File{orders, answers}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, to.Close(), from.Close())
	}
	return &process{cmd, to, from, json.NewDecoder(from), encodeJSON}, nil
}

// newCommand has one thread of arithmetic, and a process group of its own, so that all of it can be
// killed. gloo's ranks are on this machine.
func newCommand(env []string, command ...string) *exec.Cmd {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=1", "MKL_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1",
		"GLOO_SOCKET_IFNAME="+cmp.Or(os.Getenv("GLOO_SOCKET_IFNAME"), "lo"))
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

func (p *process) do(o side.Order) (side.Answer, error) {
	return p.answer(o, p.encode(p.orders, o))
}

// answer reads the answer to an order that was sent with err.
func (p *process) answer(o side.Order, err error) (side.Answer, error) {
	var a side.Answer
	if err == nil {
		err = p.answers.SetReadDeadline(time.Now().Add(limit(o)))
	}
	if err == nil {
		err = p.decoder.Decode(&a)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		p.kill()
		return a, fmt.Errorf("it hangs: no answer within %v", limit(o))
	case err != nil: // it has ended, or is about to
		if ended := p.cmd.Wait(); ended != nil {
			err = ended
		}
		return a, fmt.Errorf("the process has ended: %w", err)
	case a.Error != "":
		return a, errors.New(a.Error)
	}
	return a, nil
}

func (p *process) kill() { _ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL) }

// close ends the process. Its end is no failure a second time, after answer has reported it.
func (p *process) close() error {
	err := p.orders.Close()
	if p.cmd.ProcessState == nil {
		kill := time.AfterFunc(time.Minute, p.kill)
		err = errors.Join(err, p.cmd.Wait())
		kill.Stop()
	}
	return errors.Join(err, p.answers.Close())
}

// ranks are two processes that reduce together. The answer is rank 0's.
type ranks struct {
	all    [2]*process
	folder string
}

// startRanks starts pyhook's own two ranks.
func startRanks() (_ runner, err error) {
	r := &ranks{}
	if r.folder, err = os.MkdirTemp("", "peers"); err != nil {
		return nil, err
	}
	for rank := range r.all {
		r.all[rank], err = self("pyhook", rankVariable+"="+strconv.Itoa(rank), storeVariable+"="+filepath.Join(r.folder, "store"))
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *ranks) do(o side.Order) (side.Answer, error) {
	var sent [2]error
	for rank, p := range r.all {
		sent[rank] = p.encode(p.orders, o)
	}
	a, err := r.all[0].answer(o, sent[0])
	_, other := r.all[1].answer(o, sent[1])
	return a, errors.Join(err, other)
}

func (r *ranks) close() error {
	var err error
	for _, p := range r.all {
		err = errors.Join(err, p.orders.Close())
	}
	for _, p := range r.all {
		err = errors.Join(err, p.cmd.Wait(), p.answers.Close())
	}
	return errors.Join(err, os.RemoveAll(r.folder))
}

// mpi is mpi/allreduce.c under mpirun. mpirun hands no descriptors on, so orders come by FIFOs.
type mpi struct {
	*process
	folder string
}

// startMPI starts two ranks.
func startMPI(program string) (_ runner, err error) {
	folder, err := os.MkdirTemp("", "peers")
	if err != nil {
		return nil, err
	}
	name := func(what string) string { return filepath.Join(folder, what) }
	open := map[string]*os.File{}
	for _, what := range []string{"orders.0", "orders.1", "answers"} {
		if err := unix.Mkfifo(name(what), 0o600); err != nil {
			return nil, err
		}
		// Open for both, so that nobody waits for the other end.
		if open[what], err = os.OpenFile(name(what), os.O_RDWR, 0); err != nil {
			return nil, err
		}
	}
	cmd := newCommand([]string{"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"},
		"mpirun", "-n", "2", "--oversubscribe", program, name("orders"), name("answers"))
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	encode := func(w io.Writer, o side.Order) error {
		_, err := fmt.Fprintf(w, "%d %d\n", o.Bytes, o.Calls)
		return err
	}
	p := &process{cmd, both{open["orders.0"], open["orders.1"]}, open["answers"], json.NewDecoder(open["answers"]), encode}
	return &mpi{p, folder}, nil
}

func (m *mpi) close() error { return errors.Join(m.process.close(), os.RemoveAll(m.folder)) }

// both writes the same to two files.
type both [2]*os.File

func (b both) Write(p []byte) (int, error) {
	for _, f := range b {
		if n, err := f.Write(p); err != nil {
			return n, err
		}
	}
	return len(p), nil
}

func (b both) Close() error { return errors.Join(b[0].Close(), b[1].Close()) }

// serve is what this program does as a side.
func serve(ctx context.Context, name string) error {
	rank, err := strconv.Atoi(cmp.Or(os.Getenv(rankVariable), "0"))
	if err != nil {
		return fmt.Errorf("%s: %w", rankVariable, err)
	}
	switch name {
	case "pyhook":
		return inProcess(ctx, rank)
	case "worker":
		return inWorker(ctx)
	case "pipe":
		return side.Serve(ctx, 0, openPipe)
	case "shm":
		return side.Serve(ctx, 0, openShm)
	case "grpc":
		return side.Serve(ctx, 0, openSidecar(false))
	case "grpc-stream":
		return side.Serve(ctx, 0, openSidecar(true))
	}
	return fmt.Errorf("%s: no side %q", sideVariable, name)
}

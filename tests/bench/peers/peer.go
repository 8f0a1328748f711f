package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"pyhook/tests/bench/peers/side"
)

// peer is one way to do what a hook's call does.
type peer struct {
	name  string
	what  string
	start func() (runner, error)
	// ready makes what start needs; its error says what is missing and how to get it. nil: nothing.
	ready func() error
	mean  bool // it takes the mean over two ranks, and calls no other hook
}

// peers are all peers; pyhook's own come first, in each kind. The other figures are ratios to its.
func (e *environment) peers() []peer {
	start := func(name string, env ...string) func() (runner, error) {
		return func() (runner, error) { return self(name, env...) }
	}
	libraries := "PYTHONPATH=" + e.libraries
	return []peer{
		{name: "pyhook", what: "pyhook, in the trainer's process", start: start("pyhook")},
		{name: "worker", what: "pyhook's worker process", start: start("worker")},
		{name: "textbook", what: "cgo as in a textbook: PyGILState_Ensure, PyObject_Call, a new bucket each call",
			ready: e.buildTextbook, start: func() (runner, error) { return startProcess(nil, e.textbook, e.python, pythonFolder) }},
		{name: "shm", what: "a child process, buckets in shared memory, a byte over a pipe", start: start("shm")},
		{name: "pipe", what: "a child process, buckets over pipes", start: start("pipe")},
		{name: "grpc", what: "a gRPC sidecar, a unary RPC each call", ready: e.findGRPC, start: start("grpc", libraries)},
		{name: "grpc-stream", what: "a gRPC sidecar, messages of one stream", ready: e.findGRPC, start: start("grpc-stream", libraries)},
		{name: "pyhook", what: "pyhook with PyTorch's allreduce hook, gloo over TCP", start: startRanks, mean: true},
		{name: "mpi", what: "Open MPI from C, shared memory", ready: e.buildMPI, mean: true,
			start: func() (runner, error) { return startMPI(e.allreduce) }},
	}
}

// cases are those of a kind of peers.
func cases(mean bool) []side.Case {
	hooks := []string{"noop", "fp16"}
	if mean {
		hooks = []string{"allreduce"}
	}
	var all []side.Case
	for _, hook := range hooks {
		all = append(all, side.Case{Hook: hook, Bytes: 4 << 10, Callers: 1}, side.Case{Hook: hook, Bytes: 25 << 20, Callers: 1})
	}
	return all
}

// environment is what the peers need of this machine.
type environment struct {
	python    string // the interpreter, which has torch
	version   struct{ Python, Torch, Include, Library, Name string }
	libraries string // the folder of grpcio and protobuf
	textbook  string // the built programs
	allreduce string
}

func newEnvironment(ctx context.Context, python, out string) (*environment, error) {
	const program = `import json, sysconfig as s, sys, torch
print(json.dumps({"Python": sys.version.split()[0], "Torch": torch.__version__, "Include": s.get_path("include"),
    "Library": s.get_config_var("LIBDIR"), "Name": "python" + s.get_config_var("LDVERSION")}))`
	out, err := filepath.Abs(out)
	if err != nil {
		return nil, err
	}
	e := &environment{python: python, textbook: filepath.Join(out, "textbook"), allreduce: filepath.Join(out, "allreduce")}
	text, err := exec.CommandContext(ctx, python, "-c", program).Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", python, err)
	}
	if err := json.Unmarshal(text, &e.version); err != nil {
		return nil, fmt.Errorf("%s: %w", python, err)
	}
	e.libraries = filepath.Join(out, e.version.Name)
	return e, errors.Join(os.Setenv(pythonVariable, python), os.MkdirAll(out, 0o777))
}

// buildTextbook links the textbook's program to the interpreter's libpython.
func (e *environment) buildTextbook() error {
	if _, err := os.Stat(filepath.Join(e.version.Include, "Python.h")); err != nil {
		return fmt.Errorf("%s has no Python.h; on Debian: apt-get install python3-dev", e.version.Include)
	}
	cmd := exec.Command("go", "build", "-tags", "textbook", "-o", e.textbook, "./textbook")
	cmd.Env = append(os.Environ(), "CGO_CFLAGS=-I"+e.version.Include,
		fmt.Sprintf("CGO_LDFLAGS=-L%s -l%s -Wl,-rpath,%[1]s", e.version.Library, e.version.Name))
	return output(cmd)
}

// findGRPC looks for grpcio and protobuf, which come to a folder of their own.
func (e *environment) findGRPC() error {
	cmd := exec.Command(e.python, "-c", "import grpc, google.protobuf.wrappers_pb2")
	cmd.Env = append(os.Environ(), "PYTHONPATH="+e.libraries)
	if output(cmd) == nil {
		return nil
	}
	return fmt.Errorf("no grpcio and protobuf; %s -m pip install --target %s grpcio protobuf", e.python, e.libraries)
}

// buildMPI compiles mpi/allreduce.c.
func (e *environment) buildMPI() error {
	for _, tool := range []string{"mpicc", "mpirun"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("no %s; on Debian: apt-get install libopenmpi-dev openmpi-bin", tool)
		}
	}
	if err := output(exec.Command("mpicc", "-O2", "-o", e.allreduce, filepath.Join("mpi", "allreduce.c"))); err != nil {
		return fmt.Errorf("%w; on Debian: apt-get install libopenmpi-dev", err)
	}
	return nil
}

// output runs a command, whose output is in the error.
func output(cmd *exec.Cmd) error {
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(text)))
	}
	return nil
}

// Command ddp times whole steps of package ddp's Reducer beside the same steps of
// PyTorch's own DistributedDataParallel, on ResNet-50's parameter shapes, in the
// same two processes and in turns.
//
//	make bench-ddp                # or: go run ./tests/bench/ddp
//	go run ./tests/bench/ddp -run 'fp16/view' -steps 60
//
// A case is hook/mode. In mode copy the gradients are the trainer's own memory:
// ReadyFrom, and PyTorch's default. In mode view they are parts of the buckets:
// Ready, and PyTorch's gradient_as_bucket_view=True. docs/performance.md says
// what is measured.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"pyhook/cbridge"
	"pyhook/launch"
)

const (
	jobVariable = "PYHOOK_BENCH_DDP_JOB"
	peerFolder  = "tests/bench/ddp"
)

// job is what the ranks are to do.
type job struct {
	Python string // the interpreter
	Peer   string // the folder of stock.py
	Cases  []benchCase
	Steps  int
	Rows   string // rank 0 writes its rows here
}

// benchCase is a hook and where the gradients are.
type benchCase struct {
	Hook string // as rt.LoadHook's; "none"; "go:allreduce" is compared with PyTorch's allreduce
	View bool
}

func (c benchCase) name() string {
	if c.View {
		return c.Hook + "/view"
	}
	return c.Hook + "/copy"
}

func allCases() []benchCase {
	var cases []benchCase
	for _, hook := range []string{"none", "allreduce", "fp16", "go:allreduce", "go:fp16"} {
		cases = append(cases, benchCase{hook, false}, benchCase{hook, true})
	}
	return cases
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench-ddp:", err)
		os.Exit(1)
	}
}

func run() error {
	if text := os.Getenv(jobVariable); text != "" {
		var j job
		if err := json.Unmarshal([]byte(text), &j); err != nil {
			return err
		}
		return beRank(context.Background(), &j)
	}
	pattern := flag.String("run", ".", "cases to run: a regular expression on hook/mode")
	steps := flag.Int("steps", 24, "steps of each side")
	ranks := flag.Int("n", 2, "ranks")
	out := flag.String("out", "out/bench", "folder of ddp.json")
	flag.Parse()
	selected, err := regexp.Compile(*pattern)
	if err != nil {
		return err
	}
	python, _, err := cbridge.Discover(context.Background(), "", "torch")
	if err != nil {
		return err
	}
	peer, err := filepath.Abs(peerFolder)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o777); err != nil {
		return err
	}
	j := job{Python: python.Executable, Peer: peer, Steps: *steps, Rows: filepath.Join(*out, "ddp.rows.json")}
	for _, c := range allCases() {
		if selected.MatchString(c.name()) {
			j.Cases = append(j.Cases, c)
		}
	}
	if len(j.Cases) == 0 {
		return fmt.Errorf("no case matches %q", *pattern)
	}
	rows, err := j.spawn(*ranks)
	if err != nil {
		return err
	}
	printTable(os.Stdout, rows)
	data, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(*out, "ddp.json"), append(data, '\n'), 0o644)
}

// spawn runs the job on processes of their own, one a rank.
func (j *job) spawn(ranks int) ([]row, error) {
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// One thread of arithmetic a rank, as torchrun sets it.
	env := append(os.Environ(), jobVariable+"="+string(text), "OMP_NUM_THREADS=1", "MKL_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1")
	if os.Getenv("GLOO_SOCKET_IFNAME") == "" {
		env = append(env, "GLOO_SOCKET_IFNAME=lo")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if err := launch.Spawn(ctx, launch.SpawnConfig{Command: []string{self}, N: ranks, Env: env, GracePeriod: 3 * time.Second}); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(j.Rows)
	if err != nil {
		return nil, err
	}
	var rows []row
	return rows, errors.Join(json.Unmarshal(data, &rows), os.Remove(j.Rows))
}

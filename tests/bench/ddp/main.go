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
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"pyhook/cbridge"
	"pyhook/internal/hookbench"
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
	var rows []row
	if err := hookbench.Spawn(context.Background(), *ranks, nil, jobVariable, &j, j.Rows, &rows); err != nil {
		return err
	}
	printTable(os.Stdout, rows)
	data, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(*out, "ddp.json"), append(data, '\n'), 0o644)
}

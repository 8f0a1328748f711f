// Command ddp times whole steps of package ddp's Reducer beside the same steps of
// PyTorch's own DistributedDataParallel, on ResNet-50's parameter shapes, in the
// same two processes and in turns.
//
//	make bench-ddp                # or: go run ./tests/bench/ddp
//	go run ./tests/bench/ddp -run 'fp16/view' -steps 60
//	go run ./tests/bench/ddp -device sim      # tests/simdevice, with no delays
//	go run ./tests/bench/ddp -device cuda:0 -n 1
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
	"strings"

	"pyhook/cbridge"
	"pyhook/internal/hookbench"
	"pyhook/tests/simdevice"
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
	Device string // torch's name of that of the gradients; "": the CPU
	Path   []string
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
	device := flag.String("device", "", "where the gradients are: sim, cuda:0; else on the CPU")
	out := flag.String("out", "out/bench", "folder of ddp.json (ddp-cuda0.json)")
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
	j := job{Python: python.Executable, Peer: peer, Steps: *steps, Rows: filepath.Join(*out, "ddp.rows.json"), Device: *device}
	var env []string
	if *device == "sim" {
		sim, err := simdevice.Build()
		if err != nil {
			return err
		}
		j.Python, j.Path, env = sim.Python, sim.Path, []string{"PYHOOK_SIM_DELAY_MS=0", "OMP_NUM_THREADS=1"} // a device's stream is a thread there
	}
	for _, c := range allCases() {
		if selected.MatchString(c.name()) {
			j.Cases = append(j.Cases, c)
		}
	}
	if len(j.Cases) == 0 {
		return fmt.Errorf("no case matches %q", *pattern)
	}
	var rows []row
	if err := hookbench.Spawn(context.Background(), *ranks, env, jobVariable, &j, j.Rows, &rows); err != nil {
		return err
	}
	printTable(os.Stdout, rows)
	data, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	name := "ddp.json"
	if *device != "" {
		name = "ddp-" + strings.ReplaceAll(*device, ":", "") + ".json"
	}
	return os.WriteFile(filepath.Join(*out, name), append(data, '\n'), 0o644)
}

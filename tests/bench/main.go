// Command bench times one hook call from Go beside the same call by torch's own
// c10d::PythonCommHook in C++, in one process and in turns.
//
//	make bench                    # or: go run ./tests/bench
//	go run ./tests/bench -run 'noop/4KiB'
//	go run ./tests/bench -run '^worker'   # in a worker process beside this one
//	go run ./tests/bench -run 'noop/4KiB/1$' -only go -scale 20 -cpuprofile go.prof
//
// A case is hook/size/parameters, with /2ranks where two processes take part.
// The table goes to stdout, and all figures to out/bench/summary.json, which
// keeps the rows of other torch versions. docs/performance.md says what is
// measured and what it means.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"pyhook/cbridge"
	"pyhook/launch"
	"pyhook/worker"
)

const (
	jobVariable = "PYHOOK_BENCH_JOB"
	peerSource  = "tests/bench/peer"
)

// job is what the ranks of one world size are to do.
type job struct {
	Python  string // the interpreter
	Path    []string
	Cases   []benchCase
	Scale   float64 // times the blocks of each case
	Profile string
	Only    string // a side to run alone
	Rows    string // rank 0 writes its rows here

	WorkerCases []benchCase // in place of Cases
}

func main() {
	worker.Main()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	if text := os.Getenv(jobVariable); text != "" {
		var j job
		if err := json.Unmarshal([]byte(text), &j); err != nil {
			return err
		}
		return measure(context.Background(), &j)
	}
	pattern := flag.String("run", ".", "cases to run: a regular expression on hook/size/parameters")
	scale := flag.Float64("scale", 1, "times as many blocks of calls")
	out := flag.String("out", "out/bench", "folder of summary.json and of the built peer")
	profile := flag.String("cpuprofile", "", "write rank 0's Go CPU profile here")
	only := flag.String("only", "", "run one side alone, go, cpp or python, for a profiler; writes no summary")
	flag.Parse()
	selected, err := regexp.Compile(*pattern)
	if err != nil {
		return err
	}
	python, _, err := cbridge.Discover(context.Background(), "", "torch")
	if err != nil {
		return err
	}
	peer, err := buildPeer(python.Executable, filepath.Join(*out, "peer"))
	if err != nil {
		return err
	}
	source, err := filepath.Abs(peerSource)
	if err != nil {
		return err
	}
	var rows []row
	for world := 1; world <= 2; world++ {
		j := job{
			Python: python.Executable, Path: []string{peer, source}, Scale: *scale, Profile: *profile, Only: *only,
			Rows: filepath.Join(*out, fmt.Sprintf("rows.world%d.json", world)),
		}
		for _, c := range allCases() {
			if c.World == world && selected.MatchString(c.name()) {
				j.Cases = append(j.Cases, c)
			}
		}
		var got []row
		if err := j.spawn(world, &got); err != nil {
			return err
		}
		rows = append(rows, got...)
	}
	if *only != "" {
		return nil
	}
	workers, err := benchWorkers(selected, job{Python: python.Executable, Path: []string{source}, Scale: *scale}, *out)
	if err != nil {
		return err
	}
	if len(rows)+len(workers) == 0 {
		return fmt.Errorf("no case matches %q", *pattern)
	}
	printTable(os.Stdout, rows)
	printWorkerTable(os.Stdout, workers)
	if len(rows) == 0 {
		return nil
	}
	return writeSummary(filepath.Join(*out, "summary.json"), rows)
}

// buildPeer compiles the C++ side, once for each torch, and returns its folder.
func buildPeer(python, into string) (string, error) {
	cmd := exec.Command(python, filepath.Join(peerSource, "build.py"), into)
	cmd.Stderr = os.Stderr
	folder, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("building the C++ peer (run from the repository's root): %w", err)
	}
	return string(bytes.TrimSpace(folder)), nil
}

// spawn runs the job on processes of their own, one a rank, and reads rank 0's rows
// into rows.
func (j *job) spawn(world int, rows any) error {
	if len(j.Cases)+len(j.WorkerCases) == 0 {
		return nil
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	env := append(os.Environ(), jobVariable+"="+string(text), "OMP_NUM_THREADS=1", "MKL_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1")
	if os.Getenv("GLOO_SOCKET_IFNAME") == "" {
		env = append(env, "GLOO_SOCKET_IFNAME=lo")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	err = launch.Spawn(ctx, launch.SpawnConfig{Command: []string{self}, N: world, Env: env, GracePeriod: 3 * time.Second})
	if err != nil || j.Only != "" {
		return err
	}
	data, err := os.ReadFile(j.Rows)
	if err != nil {
		return err
	}
	return errors.Join(json.Unmarshal(data, rows), os.Remove(j.Rows))
}

// writeSummary replaces the rows of the same case and torch, and keeps others.
func writeSummary(path string, rows []row) error {
	var kept []row
	if data, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(data, &kept); err != nil {
			return fmt.Errorf("%s: %w; remove it", path, err)
		}
	}
	fresh := map[string]bool{}
	for _, r := range rows {
		fresh[r.Case+" "+r.Torch] = true
	}
	all := []row{}
	for _, r := range kept {
		if !fresh[r.Case+" "+r.Torch] {
			all = append(all, r)
		}
	}
	data, err := json.MarshalIndent(append(all, rows...), "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// cpuModel is the processor's name.
func cpuModel() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "unknown CPU"
}

// Command bench measures the project's own figures: PyTorch's hooks by Go beside
// torch's own c10d::PythonCommHook in C++, in one process and in turns.
//
//	make bench                    # or: go run ./tests/bench
//	go run ./tests/bench -run 'noop/4KiB'
//
// A case is hook/size/parameters, with /2ranks where two processes take part.
// The table goes to stdout, and all figures to out/bench/summary.json, which
// keeps the rows of other torch versions. docs/performance.md says what is
// measured and what it means; `pyhook bench` does it for any hook.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"pyhook/internal/hookbench"
	"pyhook/worker"
)

func main() {
	worker.Main()
	run := parent
	if hookbench.IsRank() {
		run = func() error { return hookbench.Rank(context.Background()) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parent() error {
	pattern := flag.String("run", ".", "cases to run: a regular expression on hook/size/parameters")
	scale := flag.Float64("scale", 1, "times as many blocks of calls")
	out := flag.String("out", "out/bench", "folder of summary.json and of the built peer")
	gpu := flag.Bool("gpu", false, "measure on the GPU's memory instead, over nccl (the default stream on both sides)")
	flag.Parse()
	selected, err := regexp.Compile(*pattern)
	if err != nil {
		return err
	}
	options := hookbench.Options{Scale: *scale, Folder: *out, NeedCpp: true}
	suite, workerSuite := hookbench.Suite(), hookbench.WorkerCases()
	if *gpu {
		suite, workerSuite = hookbench.GPUSuite(), nil
	}
	for _, c := range suite {
		if selected.MatchString(c.Name()) {
			options.Cases = append(options.Cases, c)
		}
	}
	workers := hookbench.Options{Scale: *scale, Folder: *out}
	for _, c := range workerSuite {
		if selected.MatchString("worker/" + c.Name()) {
			workers.Cases = append(workers.Cases, c)
		}
	}
	if len(options.Cases)+len(workers.Cases) == 0 {
		return fmt.Errorf("no case matches %q", *pattern)
	}
	if len(options.Cases) > 0 {
		rows, _, err := hookbench.Run(context.Background(), options)
		if err != nil {
			return err
		}
		hookbench.PrintTable(os.Stdout, rows)
		if err := writeSummary(filepath.Join(*out, "summary.json"), rows); err != nil {
			return err
		}
	}
	rows, err := hookbench.RunWorkers(context.Background(), workers)
	if err != nil || len(rows) == 0 {
		return err
	}
	hookbench.PrintWorkerTable(os.Stdout, rows)
	return writeJSON(filepath.Join(*out, "worker.json"), rows)
}

// writeSummary replaces the rows of the same case and torch, and keeps others.
func writeSummary(path string, rows []hookbench.Row) error {
	var kept []hookbench.Row
	if data, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(data, &kept); err != nil {
			return fmt.Errorf("%s: %w; remove it", path, err)
		}
	}
	fresh := map[string]bool{}
	for _, r := range rows {
		fresh[r.Case+" "+r.Torch] = true
	}
	all := []hookbench.Row{}
	for _, r := range kept {
		if !fresh[r.Case+" "+r.Torch] {
			all = append(all, r)
		}
	}
	return writeJSON(path, append(all, rows...))
}

func writeJSON(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

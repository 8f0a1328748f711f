// Command peers measures a hook's call by pyhook beside what a Go program would do without it:
// textbook cgo, a child process over pipes or shared memory, a gRPC sidecar; and, for a mean only,
// Open MPI from C.
//
//	make bench-peers              # or: go -C tests/bench/peers run .
//	go -C tests/bench/peers run . -run 'noop/4KiB' -calls 1000000
//
// Peers take turns at each case; then each bears -calls calls from -goroutines goroutines. What a
// peer lacks on this machine is said, with how to install it, and the others are measured. It is a
// Go module of its own, so that pyhook's needs no gRPC. docs/performance.md says what is measured.
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
	"runtime"
	"slices"
	"strings"
	"time"

	"pyhook/cbridge"
	"pyhook/internal/report"
	"pyhook/tests/bench/peers/side"
	"pyhook/worker"
)

func main() {
	worker.Main()
	run := parent
	if name := os.Getenv(sideVariable); name != "" {
		run = func(ctx context.Context) error { return serve(ctx, name) }
	}
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bench-peers:", err)
		os.Exit(1)
	}
}

func parent(ctx context.Context) error {
	pattern := flag.String("run", ".", "what to time: a regular expression on hook/size, as noop/4KiB")
	only := flag.String("peers", ".", "peers besides pyhook: a regular expression on their names")
	scale := flag.Float64("scale", 1, "times as many turns")
	calls := flag.Int("calls", 20_000, "calls that each peer bears; 0: none")
	goroutines := flag.Int("goroutines", 8, "that make them at once")
	asJSON := flag.Bool("json", false, "print JSON in place of tables")
	out := flag.String("out", filepath.Join("..", "..", "..", "out", "bench", "peers"), "folder of peers.json, of what is built, and of grpcio")
	flag.Parse()
	if *goroutines < 1 || *goroutines > 255 {
		return fmt.Errorf("-goroutines %d: from 1 to 255", *goroutines)
	}
	timed, err := regexp.Compile(*pattern)
	if err != nil {
		return err
	}
	selected, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(pythonFolder, "hooks.py")); err != nil {
		return fmt.Errorf("run it in tests/bench/peers: %w", err)
	}
	python, _, err := cbridge.Discover(ctx, "", "torch")
	if err != nil {
		return err
	}
	e, err := newEnvironment(ctx, python.Executable, *out)
	if err != nil {
		return err
	}
	r := &result{Torch: e.version.Torch, Python: e.version.Python, Go: runtime.Version(), Cores: runtime.NumCPU(), Load: [2]string{load(), ""},
		Rows: []row{}, Endurance: []endurance{}, Missing: []missing{}}
	there := r.available(e.peers(), selected)
	if err := r.time(there, timed, *scale); err != nil {
		return err
	}
	for _, p := range there {
		if p.mean || *calls == 0 {
			continue
		}
		e, err := endure(p, *calls, *goroutines)
		if err != nil {
			return err
		}
		r.Endurance = append(r.Endurance, e)
	}
	r.Load[1] = load()
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(*out, "peers.json"), append(data, '\n'), 0o644); err != nil {
		return err
	}
	if *asJSON {
		return report.JSON(os.Stdout, r)
	}
	r.print(os.Stdout)
	return nil
}

// available returns the peers that were asked for and can be measured here, and notes the others.
func (r *result) available(all []peer, selected *regexp.Regexp) (there []peer) {
	for _, p := range all {
		if p.name != "pyhook" && !selected.MatchString(p.name) {
			continue
		}
		if p.ready != nil {
			if err := p.ready(); err != nil {
				r.Missing = append(r.Missing, missing{p.what, err.Error()})
				continue
			}
		}
		there = append(there, p)
	}
	return there
}

// time measures all cases.
func (r *result) time(there []peer, selected *regexp.Regexp, scale float64) error {
	for _, mean := range []bool{false, true} {
		kind := slices.DeleteFunc(slices.Clone(there), func(p peer) bool { return p.mean != mean })
		chosen := slices.DeleteFunc(cases(mean), func(c side.Case) bool { return !selected.MatchString(caseName(c)) })
		if len(kind) < 2 || len(chosen) == 0 { // nothing to compare
			continue
		}
		entrants, err := start(kind)
		if err != nil {
			return err
		}
		for _, c := range chosen {
			fmt.Fprintf(os.Stderr, "%-16s %s\n", caseName(c), time.Now().Format(time.TimeOnly))
			rows, err := measure(entrants, c, scale)
			if err != nil {
				return errors.Join(fmt.Errorf("%s: %w", caseName(c), err), stop(entrants))
			}
			r.Rows = append(r.Rows, rows...)
		}
		if err := stop(entrants); err != nil {
			return err
		}
	}
	return nil
}

func caseName(c side.Case) string { return c.Hook + "/" + strings.ReplaceAll(size(c.Bytes), " ", "") }

// load is the machine's load of the last minute.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(text))[0]
}

// Command soak calls hooks of every kind on two real ranks for some minutes, and
// says whether anything grew: memory, handles, file descriptors, threads,
// goroutines, Python's objects.
//
//	make soak MINUTES=5                 # or: go run ./tests/soak -minutes 5
//	go run ./tests/soak -minutes 1 -json
//
// A line each 10 seconds is rank 0's. Every rank judges itself at the end: once
// warm, after a fifth of the time, resident memory may grow by 1 MiB in 1,000,000
// calls, and what is counted must come back. The exit status is 1 if it does not.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"pyhook/launch"
)

const jobVariable = "PYHOOK_SOAK_JOB"

// job is what the ranks are to do.
type job struct {
	Minutes float64
	Every   time.Duration // between lines
	Noops   int           // calls of the noop hook before the mixed rounds
	JSON    bool
	Dir     string // for hooks.py and the reports
}

// report is what one rank found.
type report struct {
	Rank    int      `json:"rank"`
	Python  string   `json:"python"`
	Torch   string   `json:"torch"`
	Noop    *verdict `json:"noop"`
	Mixed   *verdict `json:"mixed"`
	Samples []sample `json:"samples"`
}

func main() {
	ctx, stop := launch.WithSIGTERM(context.Background())
	defer stop()
	if text := os.Getenv(jobVariable); text != "" {
		var j job
		err := json.Unmarshal([]byte(text), &j)
		if err == nil {
			err = beRank(ctx, &j)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "soak:", err)
		}
		os.Exit(launch.Fail(err))
	}
	sound, err := run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
	}
	if err != nil || !sound {
		os.Exit(1)
	}
}

func run(ctx context.Context) (sound bool, err error) {
	var j job
	flag.Float64Var(&j.Minutes, "minutes", 5, "how long the mixed rounds last")
	flag.DurationVar(&j.Every, "every", 10*time.Second, "time between lines")
	flag.IntVar(&j.Noops, "noops", 1_000_000, "calls of the noop hook before them")
	flag.BoolVar(&j.JSON, "json", false, "print one JSON object, and no lines")
	flag.Parse()
	if j.Dir, err = os.MkdirTemp("", "pyhook-soak"); err != nil {
		return false, err
	}
	defer os.RemoveAll(j.Dir)
	const ranks = 2
	if err := j.spawn(ctx, ranks); err != nil {
		return false, err
	}
	var reports []report
	for rank := range ranks {
		data, err := os.ReadFile(j.reportFile(rank))
		if err != nil {
			return false, err
		}
		var r report
		if err := json.Unmarshal(data, &r); err != nil {
			return false, err
		}
		reports = append(reports, r)
	}
	if j.JSON {
		text, err := json.MarshalIndent(reports, "", "  ")
		if err != nil {
			return false, err
		}
		fmt.Println(string(text))
	}
	return show(reports, j.JSON), nil
}

// show prints the verdicts and reports whether all are sound.
func show(reports []report, quiet bool) bool {
	sound := true
	for _, r := range reports {
		for _, part := range []struct {
			name string
			v    *verdict
		}{{"noop", r.Noop}, {"mixed", r.Mixed}} {
			sound = sound && part.v.Sound()
			if !quiet {
				fmt.Printf("rank %d, %s: %s\n", r.Rank, part.name, part.v)
			}
		}
	}
	return sound
}

func (j *job) reportFile(rank int) string {
	return filepath.Join(j.Dir, fmt.Sprintf("rank%d.json", rank))
}

// spawn runs the job on processes of their own, one a rank.
func (j *job) spawn(ctx context.Context, ranks int) error {
	if err := os.WriteFile(filepath.Join(j.Dir, "hooks.py"), []byte(hooksSource), 0o600); err != nil {
		return err
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// One thread of arithmetic a rank, as torchrun sets it.
	env := append(os.Environ(), jobVariable+"="+string(text), "OMP_NUM_THREADS=1", "MKL_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1")
	if os.Getenv("GLOO_SOCKET_IFNAME") == "" {
		env = append(env, "GLOO_SOCKET_IFNAME=lo")
	}
	cfg := launch.SpawnConfig{Command: []string{self}, N: ranks, Env: env, GracePeriod: 3 * time.Second, Show: launch.ShowPlain}
	return errors.Join(launch.Spawn(ctx, cfg), ctx.Err())
}

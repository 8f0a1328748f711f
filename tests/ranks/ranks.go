package ranks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"pyhook/launch"
)

// Options of a job. N and Case are needed.
type Options struct {
	N    int
	Case string // a name given to Main
	Args any    // for Rank.Args, as JSON
	// Timeout of each rank; 0: two minutes. A rank that exceeds it fails with
	// "not done after".
	Timeout time.Duration
	Env     []string // over the test's own environment
}

// Job is a running or finished set of ranks.
type Job struct {
	Dir string // shared by the ranks and the test

	name   string
	job    *launch.Job
	output bytes.Buffer // launch writes one line at a time; read it after Wait
}

// Run runs a case on n ranks and fails the test if one of them fails.
func Run(t testing.TB, n int, name string, args any) *Job {
	t.Helper()
	return RunOptions(t, Options{N: n, Case: name, Args: args})
}

// RunOptions is Run with all options.
func RunOptions(t testing.TB, options Options) *Job {
	t.Helper()
	job := Start(t, options)
	if err := job.Wait(); err != nil {
		t.Fatal(err)
	}
	return job
}

// Start starts the ranks. They are stopped, and the folder removed, when the
// test ends.
func Start(t testing.TB, options Options) *Job {
	t.Helper()
	job, err := start(t, options)
	if err != nil {
		t.Fatalf("ranks %q: %v", options.Case, err)
	}
	return job
}

func start(t testing.TB, options Options) (*Job, error) {
	dir, err := options.prepare(t)
	if err != nil {
		return nil, err
	}
	job := &Job{Dir: dir, name: options.Case}
	// The rank's own timeout comes first: it can print its goroutines.
	ctx, cancel := context.WithTimeout(t.Context(), options.Timeout+15*time.Second)
	if job.job, err = options.spawn(ctx, job.Dir, &job.output); err != nil {
		cancel()
		return nil, err
	}
	t.Cleanup(func() {
		cancel()
		_ = job.job.Wait()
	})
	return job, nil
}

// prepare checks the options, fills in the timeout and makes the job's folder, with what Rank.Args reads.
func (o *Options) prepare(t testing.TB) (dir string, err error) {
	if _, known := cases[o.Case]; !known {
		return "", errors.New("no such case: give it to ranks.Main")
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Minute
	}
	args, err := json.Marshal(o.Args)
	if err != nil {
		return "", err
	}
	dir = t.TempDir()
	return dir, os.WriteFile(filepath.Join(dir, argsFile), args, 0o600)
}

func (o Options) spawn(ctx context.Context, dir string, output *bytes.Buffer) (*launch.Job, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return launch.Start(ctx, launch.SpawnConfig{
		Command: []string{self}, N: o.N, Env: o.environ(dir),
		GracePeriod: 3 * time.Second, Stdout: output, Stderr: output, TailBytes: 64 << 10,
	})
}

func (o Options) environ(dir string) []string {
	env := os.Environ()
	if os.Getenv("GLOO_SOCKET_IFNAME") == "" {
		// Gloo otherwise resolves the host's name, which containers may not know.
		env = append(env, "GLOO_SOCKET_IFNAME=lo")
	}
	env = append(env, "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1",
		"GORACE=atexit_sleep_ms=0", caseVariable+"="+o.Case, dirVariable+"="+dir, timeoutVariable+"="+o.Timeout.String())
	return append(env, o.Env...)
}

// Wait waits for the ranks. The error is a *launch.RankError of the rank at
// fault, with its message, traceback and the output of all in its text; or the
// context's when time ran out.
func (j *Job) Wait() error {
	err := j.job.Wait()
	if err == nil {
		return nil
	}
	return withOutput(err, j.name, j.output.Bytes())
}

func withOutput(err error, name string, output []byte) error {
	var rank *launch.RankError
	if errors.As(err, &rank) {
		return fmt.Errorf("ranks %q: %w\n%s\n--- output of all ranks\n%s", name, rank, rank.Traceback, output)
	}
	return fmt.Errorf("ranks %q: %w\n--- output of all ranks\n%s", name, err, output)
}

// Pids are the ranks' process ids, by rank.
func (j *Job) Pids() []int { return j.job.Pids() }

// Output is what the ranks printed, each line behind its rank. Call Wait before.
func (j *Job) Output() string { return j.output.String() }

// Result returns the value that a rank reported.
func Result[T any](t testing.TB, j *Job, rank int) T {
	t.Helper()
	var v T
	data, err := os.ReadFile(reportFile(j.Dir, rank))
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil {
		t.Fatalf("ranks %q: the report of rank %d: %v", j.name, rank, err)
	}
	return v
}

func reportFile(dir string, rank int) string {
	return filepath.Join(dir, "report.rank"+strconv.Itoa(rank)+".json")
}

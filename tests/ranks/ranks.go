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

	series int // how many runs, each with its own of Args; 0: one
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

// Series runs a case once for each of args, one after another in one process a rank, since starting
// torch takes longer than most cases, and returns a finished job for each. The case must leave
// its group, and find the Python that runs already. MASTER_PORT is the same for all.
func Series[A any](t testing.TB, options Options, args ...A) []*Job {
	t.Helper()
	options.Args, options.series = args, len(args)
	whole := RunOptions(t, options)
	jobs := make([]*Job, len(args))
	for i := range jobs {
		jobs[i] = &Job{Dir: seriesDir(whole.Dir, i), name: options.Case}
	}
	return jobs
}

func seriesDir(dir string, i int) string { return filepath.Join(dir, strconv.Itoa(i)) }

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
	if _, known := cases[options.Case]; !known {
		return nil, errors.New("no such case: give it to ranks.Main")
	}
	if options.Timeout == 0 {
		options.Timeout = 2 * time.Minute
	}
	job := &Job{Dir: t.TempDir(), name: options.Case}
	if err := options.writeArgs(job.Dir); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// The rank's own timeout comes first: it can print its goroutines.
	ctx, cancel := context.WithTimeout(t.Context(), options.Timeout+15*time.Second)
	job.job, err = launch.Start(ctx, launch.SpawnConfig{
		Command: []string{self}, N: options.N, Env: options.environ(job.Dir),
		GracePeriod: 3 * time.Second, Stdout: &job.output, Stderr: &job.output, TailBytes: 64 << 10,
	})
	if err != nil {
		cancel()
		return nil, err
	}
	t.Cleanup(func() {
		cancel()
		_ = job.job.Wait()
	})
	return job, nil
}

// writeArgs writes what Rank.Args reads: a file for each run.
func (o Options) writeArgs(dir string) error {
	args, err := json.Marshal(o.Args)
	if err != nil || o.series == 0 {
		return errors.Join(err, os.WriteFile(filepath.Join(dir, argsFile), args, 0o600))
	}
	var each []json.RawMessage
	if err := json.Unmarshal(args, &each); err != nil {
		return err
	}
	for i, one := range each {
		own := seriesDir(dir, i)
		if err := errors.Join(os.Mkdir(own, 0o700), os.WriteFile(filepath.Join(own, argsFile), one, 0o600)); err != nil {
			return err
		}
	}
	return nil
}

func (o Options) environ(dir string) []string {
	env := os.Environ()
	if os.Getenv("GLOO_SOCKET_IFNAME") == "" {
		// Gloo otherwise resolves the host's name, which containers may not know.
		env = append(env, "GLOO_SOCKET_IFNAME=lo")
	}
	env = append(env, "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1",
		"GORACE=atexit_sleep_ms=0", caseVariable+"="+o.Case, dirVariable+"="+dir, seriesVariable+"="+strconv.Itoa(o.series), timeoutVariable+"="+o.Timeout.String())
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
	text := fmt.Sprintf("ranks %q: ", j.name)
	var rank *launch.RankError
	if errors.As(err, &rank) {
		return fmt.Errorf("%s%w\n%s\n--- output of all ranks\n%s", text, rank, rank.Traceback, j.output.Bytes())
	}
	return fmt.Errorf("%s%w\n--- output of all ranks\n%s", text, err, j.output.Bytes())
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

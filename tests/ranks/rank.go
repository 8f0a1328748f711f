package ranks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"testing"
	"time"

	"pyhook/launch"
)

const (
	caseVariable    = "PYHOOK_TEST_CASE"
	dirVariable     = "PYHOOK_TEST_DIR"
	seriesVariable  = "PYHOOK_TEST_SERIES"
	timeoutVariable = "PYHOOK_TEST_TIMEOUT_OF_RANK"
	argsFile        = "args.json"
)

// Func runs on every rank. ctx ends when a peer has failed or at the timeout. Func
// need not close what it opened: the process ends after it.
type Func func(ctx context.Context, r *Rank) error

// Rank is the rank of a Func's process, and the size of its job.
type Rank struct {
	Rank, Size int
	Dir        string // shared by the ranks and the test
}

// Args reads the args of Run into v.
func (r *Rank) Args(v any) error {
	data, err := os.ReadFile(filepath.Join(r.Dir, argsFile))
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// Report stores v for Result.
func (r *Rank) Report(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(reportFile(r.Dir, r.Rank), data, 0o600)
}

var cases map[string]Func

// Main is a TestMain: it runs the tests or, in a process that Run started, the
// case. It does not return.
func Main(m *testing.M, known map[string]Func) {
	cases = known
	name := os.Getenv(caseVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	err := serve(name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(launch.Fail(err))
}

func serve(name string) error {
	if err := launch.DieWithParent(); err != nil {
		return err
	}
	f, known := cases[name]
	if !known {
		return fmt.Errorf("no case %q in this binary", name)
	}
	limit, err := time.ParseDuration(os.Getenv(timeoutVariable))
	if err != nil {
		return err
	}
	world, err := launch.Detect(launch.Options{})
	if err != nil {
		return err
	}
	ctx, stop := launch.WithSIGTERM(context.Background())
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- all(ctx, f, Rank{Rank: world.Rank, Size: world.Size, Dir: os.Getenv(dirVariable)})
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(2 * time.Second): // inside C or Python, which nothing can stop
	}
	if err := context.Cause(ctx); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
	return fmt.Errorf("not done after %s: %w", limit, context.DeadlineExceeded)
}

// all runs the case once, or as often as Series says.
func all(ctx context.Context, f Func, r Rank) error {
	series, err := strconv.Atoi(os.Getenv(seriesVariable))
	if err != nil || series == 0 {
		return errors.Join(err, protected(ctx, f, &r))
	}
	for i := range series {
		own := r
		own.Dir = seriesDir(r.Dir, i)
		if err := protected(ctx, f, &own); err != nil {
			return fmt.Errorf("run %d: %w", i, err)
		}
		if err := own.waitForPeers(ctx); err != nil {
			return err
		}
	}
	return nil
}

// waitForPeers returns when all ranks have come to this run's end.
func (r *Rank) waitForPeers(ctx context.Context) error {
	if err := os.WriteFile(filepath.Join(r.Dir, fmt.Sprint("done.rank", r.Rank)), nil, 0o600); err != nil {
		return err
	}
	for {
		if done, _ := filepath.Glob(filepath.Join(r.Dir, "done.rank*")); len(done) == r.Size {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// protected returns a panic as an error, so that it reaches the test with its stack
// and not as the exit code 2 alone.
func protected(ctx context.Context, f Func, r *Rank) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{v, string(debug.Stack())}
		}
	}()
	return f(ctx, r)
}

type panicError struct {
	value any
	stack string
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// Traceback is for launch's error file.
func (e *panicError) Traceback() string { return e.stack }

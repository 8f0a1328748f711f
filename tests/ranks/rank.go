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
	"testing"
	"time"

	"pyhook/launch"
)

const (
	caseVariable    = "PYHOOK_TEST_CASE"
	dirVariable     = "PYHOOK_TEST_DIR"
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
	Meet       string // pyhook's InitMethod for a case of Shared; else ""

	retired bool // by Retire
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
		code := m.Run()
		endShared()
		os.Exit(code)
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
	r := &Rank{Rank: world.Rank, Size: world.Size, Dir: os.Getenv(dirVariable)}
	if name == sharedCase {
		return serveShared(ctx, r)
	}
	return r.run(ctx, name, limit)
}

// run runs a case, for no longer than limit.
func (r *Rank) run(ctx context.Context, name string, limit time.Duration) error {
	f, known := cases[name]
	if !known {
		return fmt.Errorf("no case %q in this binary", name)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- protected(ctx, f, r) }()
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

package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/launch"
	"pyhook/worker"
)

// Func is what a rank does. ctx is Job.Context; it ends with SIGTERM.
type Func func(ctx context.Context, j *Job) error

// Main is the main of a rank with the zero Config: see Config.Main.
func Main(train Func) { Config{}.Main(train) }

// Main joins the job, runs train, leaves and ends the process: the package comment says how. Call it
// first in main, after the flags were parsed: what comes before it is also done by the process that
// starts the ranks, and by workers. It does not return.
func (c Config) Main(train Func) {
	worker.Main()
	Spawn(c.Ranks)
	os.Exit(c.run(train))
}

// closeTime is how long a rank that failed may take to close what it has: what it was in may never
// end.
const closeTime = 10 * time.Second

// exitPanicked is Go's own.
const exitPanicked = 2

func (c Config) run(train Func) (code int) {
	j, err := Join(context.Background(), c)
	if err != nil {
		say(err)
		return launch.Fail(err)
	}
	err = call(j, train)
	if err == nil {
		ddp.CloseAll()
		err = j.Leave(j.ctx)
	}
	if err == nil {
		if err := j.Close(); err != nil { // the work is done
			say(err)
		}
		return 0
	}
	err = j.named(j.ended(err))
	say(err)
	code = launch.Fail(err)
	var panicked *PanicError
	if errors.As(err, &panicked) { // somebody may hold a mutex
		return exitPanicked
	}
	closed := make(chan error, 1)
	go func() { closed <- j.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			say(err)
		}
	case <-time.After(closeTime):
	}
	return code
}

// call runs train, and makes an error of a panic.
func call(j *Job, train Func) (err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case failure:
			err = v.err
		default:
			err = &PanicError{Value: v, Stack: string(debug.Stack())}
		}
	}()
	return train(j.ctx, j)
}

// PanicError is a panic of train's.
type PanicError struct {
	Value any
	Stack string // of its goroutine
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Traceback is for launch's error file.
func (e *PanicError) Traceback() string { return e.Stack }

// Unwrap returns the value, if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// named has an error name the rank, as most do.
func (j *Job) named(err error) error {
	if strings.Contains(err.Error(), fmt.Sprintf("rank %d", j.Rank())) {
		return err
	}
	return j.errorf("%w", err)
}

func program() string { return filepath.Base(os.Args[0]) }

// say prints an error, and with it the traceback and stacks that it has: on the rank where the step
// failed.
func say(err error) {
	text := err.Error()
	var step *ddp.StepError
	if !errors.As(err, &step) || step.Origin == step.Rank {
		text += details(err)
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", program(), text)
}

func details(err error) (text string) {
	var panicked *PanicError
	var python interface{ FullTraceback() string }
	var hook *c10d.Error
	if errors.As(err, &panicked) {
		text += "\n\n" + panicked.Stack
	}
	if errors.As(err, &python) {
		text += "\n" + strings.TrimRight(python.FullTraceback(), "\n")
	}
	if errors.As(err, &hook) && hook.Stacks != "" {
		text += "\nwhere every Python thread was:\n" + strings.TrimRight(hook.Stacks, "\n")
	}
	return text
}

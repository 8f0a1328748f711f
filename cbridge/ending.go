package cbridge

// #include <stdio.h>
import "C"

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

//go:embed ending.py
var endingSource string

// ErrExitTimeout: Python's own end took longer than Config.ExitWait.
var ErrExitTimeout = errors.New("python did not come to its end in time")

// ExitError is Close's error when a step of Python's end took too long. The steps after
// it were taken all the same. It is an ErrExitTimeout (errors.Is).
type ExitError struct {
	Limit   time.Duration
	Step    string   // what took too long
	Waiting []string // what it waits for, as far as is known: "thread uploader", "process Process-3 (4711)"
	Stacks  string   // of all Python threads, at that moment
}

func (e *ExitError) Error() string {
	text := fmt.Sprintf("%v: %s was not done after %s", ErrExitTimeout, e.Step, e.Limit)
	if len(e.Waiting) > 0 {
		text += "; still there: " + strings.Join(e.Waiting, ", ")
	}
	return text + "\nhint: end them before Close (join the thread, shut the executor down), make them daemons, " +
		"or set Config.ExitWait; Stacks says where each thread is"
}

// Unwrap is for errors.Is.
func (e *ExitError) Unwrap() error { return ErrExitTimeout }

const (
	exitWait = 30 * time.Second // what launchers and Kubernetes leave a program that they stop
	// exitGrace is what a step gets when the time is up already.
	exitGrace = 2 * time.Second
)

// exitSteps are those of ending.py, in Python's order.
var exitSteps = []struct{ name, text string }{
	{"finish_threads", "waiting for Python's threads and executors"},
	{"run_exit_functions", "running Python's atexit functions"},
	{"flush_files", "writing out Python's open files"},
}

// end does what python does at its exit, within limit; negative: as long as it takes.
func (in *Interpreter) end(limit time.Duration) error {
	if limit == 0 {
		limit = exitWait
	}
	deadline := time.Now().Add(limit)
	var errs []error
	late, stuck := false, false // a step was late; and holds Python's main thread
	for _, step := range exitSteps {
		left := time.Until(deadline)
		if late {
			left = exitGrace
		}
		done, began, err := in.exitStep(step.name, left, limit < 0, stuck)
		errs = append(errs, err)
		if done {
			continue
		}
		stuck = true
		if !late {
			errs = append(errs, in.late(limit, step.text, began))
		}
		late = true
		if !began { // Python's main thread has other work: without it
			_, _, err = in.exitStep(step.name, exitGrace, false, true)
			errs = append(errs, err)
		}
	}
	if !late { // else somebody may hold Python's lock
		_, err := in.relay.module.CallValue("stop")
		errs = append(errs, err)
	}
	C.fflush(nil) // what C code prints
	return errors.Join(errs...)
}

// exitStep runs one step, on Python's main thread unless elsewhere, and waits for it.
func (in *Interpreter) exitStep(name string, limit time.Duration, forever, elsewhere bool) (done, began bool, err error) {
	result := make(chan error, 1)
	var taken atomic.Bool
	step := func() {
		if taken.CompareAndSwap(false, true) {
			_, err := in.ending.CallValue(name)
			result <- err
		}
	}
	go func() {
		if elsewhere {
			step()
		} else if err := in.RunOnMain(context.Background(), step); err != nil {
			result <- err
		}
	}()
	var late <-chan time.Time
	if !forever {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case err := <-result:
		return true, true, err
	case <-late:
		return false, !taken.CompareAndSwap(false, true), nil
	}
}

// late returns the error that says what Python does. It waits only exitGrace for the GIL, which
// somebody may hold.
func (in *Interpreter) late(limit time.Duration, step string, began bool) error {
	e := &ExitError{Limit: limit, Step: step}
	if !began {
		e.Step += ", since Python's main thread is in a call"
	}
	type seen struct {
		waiting []string
		stacks  string
	}
	result := make(chan seen, 1)
	go func() {
		var s seen
		list, _ := in.ending.CallValue("waiting")
		values, _ := list.([]any)
		for _, value := range values {
			s.waiting = append(s.waiting, fmt.Sprint(value))
		}
		s.stacks, _ = in.Stacks()
		result <- s
	}()
	select {
	case s := <-result:
		e.Waiting, e.Stacks = s.waiting, s.stacks
	case <-time.After(exitGrace):
		e.Waiting = []string{"whoever holds Python's global lock"}
	}
	return e
}

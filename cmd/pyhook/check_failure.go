package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"pyhook/internal/report"
	"pyhook/pyhook"
)

// The codes of failures that are not errors of package pyhook.
const (
	codeNoPython = "no_python"
	codeDied     = "died"
	codeTimeout  = "timeout"
	codeStopped  = "stopped"
	codeOther    = "failed"
)

// failureCodes name pyhook's errors for --json, the special before the general.
var failureCodes = []struct {
	err  error
	code string
}{
	{pyhook.ErrRaised, "raised"},
	{pyhook.ErrNoneResult, "returned_none"},
	{pyhook.ErrNotFuture, "not_future"},
	{pyhook.ErrFutureFailed, "future_failed"},
	{pyhook.ErrNotTensor, "not_tensor"},
	{pyhook.ErrShort, "short"},
	{pyhook.ErrBadResult, "bad_result"},
	{pyhook.ErrLoad, "load"},
	{pyhook.ErrGroup, "group"},
}

// newFailure describes err as of now.
func newFailure(rank, step, bucket int, err error) *checkFailure {
	f := &checkFailure{Code: codeOther, Rank: rank, Step: step, Bucket: bucket, At: time.Now().UnixNano()}
	var discovery *pyhook.DiscoveryError
	if errors.As(err, &discovery) {
		f.Code = codeNoPython
	}
	for _, known := range failureCodes {
		if errors.Is(err, known.err) {
			f.Code = known.code
			break
		}
	}
	message, hints := report.SplitHints(err.Error())
	f.Message, f.Hint, f.Traceback = message, strings.Join(hints, "\n"), pythonTraceback(err)
	if f.Traceback != "" {
		f.Message, _, _ = strings.Cut(message, "\n") // the rest is at the traceback's end
	}
	f.unwrapCallback(err)
	if f.Traceback != "" && (f.Code == "raised" || f.Code == "future_failed") && !strings.Contains(f.Hint, "--") {
		f.Hint = "" // it names no flag, but is for Go programs: where the traceback is, and that one may go on
	}
	return f
}

// callbackNoise is what torch puts before an exception of a then callback
// (torch/csrc/utils/pybind.h and torch/csrc/jit/python/pybind_utils.h).
const callbackNoise = "Got the following error when running the callback: "

// unwrapCallback shows the exception of a callback as it was raised. Its
// traceback is gone by then; torch's text and pyhook's cause have the place.
func (f *checkFailure) unwrapCallback(err error) {
	before, after, found := strings.Cut(f.Message, callbackNoise)
	if !found {
		return
	}
	f.Message = strings.TrimSuffix(before, "RuntimeError: ") + after
	var python *pyhook.PythonError
	if errors.As(err, &python) && python.Cause != nil && !strings.HasPrefix(python.Cause.Traceback, "Traceback") {
		f.Traceback = "In a callback of the hook's future, at:\n" + python.Cause.Traceback
	}
}

// nameHook calls the hook as the user did, where a file's hook is called by the
// name of a made-up module.
func (f *checkFailure) nameHook(name, spec string) {
	if strings.HasPrefix(name, fileModule) {
		f.Message = strings.ReplaceAll(f.Message, "hook "+name+",", "hook "+spec+",")
	}
}

// fileModule begins the name of a module made of a file (python/pyhook/_load.py).
const fileModule = "pyhook_file_"

// brokenPeers are what gloo and the store say when another rank went away: the
// rank that says so is not at fault.
var brokenPeers = []string{"Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused",
	"Socket Timeout", "failed to recv", "recvValue failed"}

func (f *checkFailure) onlySawAnother() bool {
	for _, text := range brokenPeers {
		if strings.Contains(f.Message, text) {
			return true
		}
	}
	return false
}

// blame orders failures: a rank's own first, then deaths, then what only came
// of another's end.
func (f *checkFailure) blame() int {
	switch {
	case f.Code == codeStopped:
		return 3
	case f.onlySawAnother():
		return 2
	case f.Code == codeDied:
		return 1
	}
	return 0
}

// rootFailure picks the failure to report, the earliest of those to blame, and
// tells what the other ranks were doing; nil where none failed.
func rootFailure(ranks []*rankReport) *checkFailure {
	var root *checkFailure
	for _, rank := range ranks {
		f := rank.Failure
		if f != nil && (root == nil || f.blame() < root.blame() || f.blame() == root.blame() && f.At < root.At) {
			root = f
		}
	}
	if root == nil {
		return nil
	}
	chosen := *root
	if chosen.Code == codeTimeout {
		chosen.Others = othersAt(ranks, root)
	}
	return &chosen
}

// othersAt is where the other ranks were when one hung: the one to mend is
// often not the one that noticed.
func othersAt(ranks []*rankReport, root *checkFailure) string {
	var parts []string
	for _, rank := range ranks {
		f := rank.Failure
		if f == nil || f == root {
			continue
		}
		parts = append(parts, strings.TrimRight(fmt.Sprintf("rank %d: %s\n%s", f.Rank, f.Message, report.Indent(f.Traceback, "  ")), "\n "))
	}
	return strings.Join(parts, "\n")
}

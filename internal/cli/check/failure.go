package check

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/cli"
	"pyhook/internal/report"
	"pyhook/pyhook"
)

// The codes of failures that c10d does not have.
const (
	codeNoPython = "no_python"
	codeDied     = "died"
	codeTimeout  = "timeout"
	codeStopped  = "stopped"
	codeOther    = "failed"
)

// hookCodes are the codes of c10d that --json reports, the special before the general. Any other
// code is reported as the first of these that it is: bad_spec as load.
var hookCodes = []c10d.Code{c10d.ErrPeer, c10d.ErrRaised, c10d.ErrNoneResult, c10d.ErrNotFuture, c10d.ErrFutureFailed,
	c10d.ErrNotTensor, c10d.ErrShort, c10d.ErrBadResult, c10d.ErrLoad, c10d.ErrGroup}

// fail notes a failure: of the phase that is judged, or of the comparison.
func (r *rankReport) fail(f *checkFailure, stopped bool) {
	if stopped {
		f.Code = codeStopped
	}
	if r.Compared != nil && r.Compared.Running {
		r.Compared.Failure, r.Compared.Running = f, false
		return
	}
	r.Failure, r.Stopped, r.phaseRecord = f, stopped, phaseRecord{Order: r.Order, Calls: [][]callRecord{}}
}

// failure is the one that ended the rank's run, or nil.
func (r *rankReport) failure() *checkFailure {
	if r.Failure == nil && r.Compared != nil {
		return r.Compared.Failure
	}
	return r.Failure
}

// newFailure describes err as of now.
func newFailure(rank, step, bucket int, err error) *checkFailure {
	f := &checkFailure{Code: codeOther, Rank: rank, Step: step, Bucket: bucket, At: time.Now().UnixNano()}
	var discovery *pyhook.DiscoveryError
	if errors.As(err, &discovery) {
		f.Code = codeNoPython
	}
	for _, code := range hookCodes {
		if errors.Is(err, code) {
			f.Code = string(code)
			break
		}
	}
	f.Message, f.Hint, f.Traceback = cli.TextsOf(err)
	f.unwrapCallback(err)
	if f.Traceback != "" && (f.Code == string(c10d.ErrRaised) || f.Code == string(c10d.ErrFutureFailed)) && !strings.Contains(f.Hint, "--") {
		f.Hint = "" // it names no flag, but is for Go programs: where the traceback is, and that one may go on
	}
	var rebuilt *rebuiltError
	if errors.As(err, &rebuilt) {
		f.Hint = strings.TrimPrefix(f.Hint+"\n"+rebuiltHint, "\n")
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

// onlySawAnother reports whether the rank failed because another one did: it is not at fault.
func (f *checkFailure) onlySawAnother() bool { return f.Code == string(c10d.ErrPeer) }

// hintOrder says, of a hook that failed while buckets overlapped, how to see whether
// that is why.
func (f *checkFailure) hintOrder(p *checkPlan, order string) {
	if order == "" || order == ddp.OrderSerial.String() || len(p.Buckets) == 1 || f.Step < 0 || p.Rebuild && f.Step == 0 {
		return
	}
	f.Hint = strings.TrimPrefix(f.Hint+"\n"+fmt.Sprintf("the buckets are reduced in %s order, where they overlap: "+
		"--order serial, which is NCCL's order, shows whether that is why", order), "\n")
}

// blame orders failures by how likely they are the cause: a rank's own first, then
// deaths, then what follows another rank's end.
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

// rootFailure picks the failure to report, the earliest of those to blame, and adds
// what the other ranks were doing. It returns nil if no rank failed.
func rootFailure(ranks []*rankReport) *checkFailure {
	return rootOf(ranks, func(r *rankReport) *checkFailure { return r.Failure })
}

// rootOf is rootFailure for the failures that of gives.
func rootOf(ranks []*rankReport, of func(*rankReport) *checkFailure) *checkFailure {
	var root *checkFailure
	for _, rank := range ranks {
		f := of(rank)
		if f != nil && (root == nil || f.blame() < root.blame() || f.blame() == root.blame() && f.At < root.At) {
			root = f
		}
	}
	if root == nil {
		return nil
	}
	chosen := *root
	chosen.At = 0
	if chosen.Code == codeTimeout {
		chosen.Others = othersAt(ranks, root, of)
	}
	return &chosen
}

// othersAt says where the other ranks were when one hung: the rank that noticed is
// often not the one at fault.
func othersAt(ranks []*rankReport, root *checkFailure, of func(*rankReport) *checkFailure) string {
	var parts []string
	for _, rank := range ranks {
		f := of(rank)
		if f == nil || f == root {
			continue
		}
		parts = append(parts, strings.TrimRight(fmt.Sprintf("rank %d: %s\n%s", f.Rank, f.Message, report.Indent(f.Traceback, "  ")), "\n "))
	}
	return strings.Join(parts, "\n")
}

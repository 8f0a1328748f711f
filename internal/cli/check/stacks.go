package check

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"pyhook/internal/lines"
	"pyhook/pyhook"
)

// stuck describes where Python is while it does not come back.
func (r *rankRun) stuck(code, message string) *rankReport {
	at := time.Now().UnixNano()
	stacks := r.pythonStacks()
	r.mu.Lock()
	defer r.mu.Unlock()
	// The work goes on and may write to the report: leave it a copy.
	report := r.report
	report.Compared = report.Compared.clone()
	f := &checkFailure{Code: code, Rank: report.Rank, Step: r.step, Bucket: r.bucket, Message: message, Traceback: stacks, At: at}
	if code == codeTimeout && r.doing == inHook {
		f.Hint = "do all ranks call the same collectives in the same order? --timeout allows more time"
		if stacks == "" {
			f.Hint = fmt.Sprintf("no Python code runs on rank %d: it waits for the future that the hook returned.\n", report.Rank) + f.Hint
		}
	}
	report.fail(f, code == codeStopped)
	return &report
}

// pythonStacks is what faulthandler says of all threads that run Python code,
// or "" when Python does not answer: a C extension may hold it.
func (r *rankRun) pythonStacks() string {
	r.mu.Lock()
	rt := r.rt
	r.mu.Unlock()
	if rt == nil {
		return ""
	}
	text := make(chan string, 1)
	go func() {
		dump, err := dumpStacks(rt)
		if err != nil {
			dump = ""
		}
		text <- dump
	}()
	select {
	case dump := <-text:
		return dump
	case <-time.After(2 * time.Second):
		return "(Python does not answer: something holds its global lock)"
	}
}

func dumpStacks(rt *pyhook.Runtime) (string, error) {
	f, err := os.CreateTemp("", "pyhook-stacks-")
	if err != nil {
		return "", err
	}
	defer f.Close()
	// Without a name it goes with the process, however that ends.
	if err := os.Remove(f.Name()); err != nil {
		return "", err
	}
	handler, err := rt.Import(context.Background(), "faulthandler")
	if err != nil {
		return "", err
	}
	defer handler.Close()
	// faulthandler takes a descriptor too, and writes to that directly.
	if _, err := handler.CallValue("dump_traceback", int(f.Fd()), true); err != nil {
		return "", err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	text, err := io.ReadAll(f)
	return lines.RunningThreads(string(text)), err
}

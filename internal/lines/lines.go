// Package lines forwards a child process's output line by line, and keeps its end.
package lines

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// longestLine bounds the memory for a line that a rank never ends. A longer line is split. The
// report of pyhook train is a line, with some 20 bytes a step.
const longestLine = 1 << 20

// Writer forwards whole lines, each in one Write under a lock that all writers of
// the same destination share, so that no two ranks mix in a line.
//
// A carriage return ends a line too: otherwise the progress bars of tqdm would show
// only once they are full.
//
// Write never fails: a rank must not die, or block for ever on a full pipe, because
// nobody reads the launcher's own output. One goroutine writes at a time.
type Writer struct {
	Lock    *sync.Mutex
	Dst     io.Writer // nil: only the tail is kept
	Prefix  string
	Tail    *Tail
	pending []byte
}

func (w *Writer) Write(p []byte) (int, error) {
	w.pending = append(w.pending, p...)
	for {
		n := lineLength(w.pending)
		if n == 0 {
			return len(p), nil
		}
		w.emit(w.pending[:n])
		w.pending = w.pending[n:]
	}
}

// lineLength returns the length of the first whole line with its end, or 0. A
// carriage return at the very end may be half of "\r\n", so it does not end a line yet.
func lineLength(p []byte) int {
	i := bytes.IndexAny(p, "\n\r")
	switch {
	case i >= 0 && i < longestLine && p[i] == '\n':
		return i + 1
	case i >= 0 && i < longestLine && i+1 < len(p) && p[i+1] == '\n':
		return i + 2
	case i >= 0 && i < longestLine && i+1 < len(p):
		return i + 1
	case len(p) > longestLine:
		return longestLine
	}
	return 0
}

func (w *Writer) emit(line []byte) {
	// Line by line: two streams may share a tail.
	w.Tail.add(line)
	if w.Dst == nil {
		return
	}
	out := make([]byte, 0, len(w.Prefix)+len(line)+1)
	out = append(append(out, w.Prefix...), line...)
	if end := out[len(out)-1]; end != '\n' && end != '\r' {
		out = append(out, '\n')
	}
	w.Lock.Lock()
	defer w.Lock.Unlock()
	_, _ = w.Dst.Write(out)
}

// Flush writes a last line without an end, and ends it: the next rank's begins a new one.
func (w *Writer) Flush() {
	if len(w.pending) > 0 {
		w.emit(w.pending)
		w.pending = nil
	}
}

// Tail keeps the last bytes of a rank's output, standard output and error
// together, for the report of its failure. It is safe for concurrent use.
type Tail struct {
	lock sync.Mutex
	Size int // in bytes
	kept []byte
}

func (t *Tail) add(p []byte) {
	t.lock.Lock()
	defer t.lock.Unlock()
	if len(p) > t.Size {
		p = p[len(p)-t.Size:]
	}
	t.kept = append(t.kept, p...)
	if len(t.kept) > 2*t.Size {
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-t.Size:]...)
	}
}

// Text returns the last bytes, from the beginning of a line where older output was dropped.
func (t *Tail) Text() string {
	t.lock.Lock()
	defer t.lock.Unlock()
	kept := t.kept
	if len(kept) > t.Size {
		kept = kept[len(kept)-t.Size:]
		if i := bytes.IndexByte(kept, '\n'); i >= 0 {
			kept = kept[i+1:]
		}
	}
	return strings.ToValidUTF8(string(kept), "\uFFFD")
}

// RunningThreads leaves out of what faulthandler dumps the threads that run no Python code.
func RunningThreads(dump string) string {
	var kept []string
	for _, thread := range strings.Split(strings.TrimSpace(dump), "\n\n") {
		if strings.Contains(thread, "\n  File ") || strings.HasPrefix(thread, "Fatal Python error") {
			kept = append(kept, thread)
		}
	}
	return strings.Join(kept, "\n")
}

package launch

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// longestLine bounds what a rank that never ends its line can make the launcher
// keep. A longer line is broken.
const longestLine = 64 << 10

// lineWriter passes on whole lines, each in one Write under a lock that all
// writers of the same destination share, so that no two ranks mix in a line.
//
// A carriage return ends a line too, or the progress bars of tqdm would show
// only once they are full.
//
// Write never fails: a rank must not die, or block for ever on a full pipe, of
// a launcher whose own output went away.
type lineWriter struct {
	lock    *sync.Mutex
	dst     io.Writer
	prefix  string
	tail    *tail
	pending []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.tail.add(p)
	if w.dst == nil {
		return len(p), nil
	}
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

// lineLength is the length of the first whole line with its end, or 0. A
// carriage return at the very end may be half of "\r\n", so it waits.
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

func (w *lineWriter) emit(line []byte) {
	out := make([]byte, 0, len(w.prefix)+len(line)+1)
	out = append(append(out, w.prefix...), line...)
	if end := out[len(out)-1]; end != '\n' && end != '\r' {
		out = append(out, '\n')
	}
	w.lock.Lock()
	defer w.lock.Unlock()
	_, _ = w.dst.Write(out)
}

// flush ends a last line that the rank left open, or it would run into another
// rank's.
func (w *lineWriter) flush() {
	if len(w.pending) > 0 {
		w.emit(w.pending)
		w.pending = nil
	}
}

// tail keeps the last bytes of a rank's output, standard output and error
// together, for the report of its failure.
type tail struct {
	lock sync.Mutex
	size int
	kept []byte
}

func (t *tail) add(p []byte) {
	t.lock.Lock()
	defer t.lock.Unlock()
	if len(p) > t.size {
		p = p[len(p)-t.size:]
	}
	t.kept = append(t.kept, p...)
	if len(t.kept) > 2*t.size {
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-t.size:]...)
	}
}

// text starts at a line where older output was dropped.
func (t *tail) text() string {
	t.lock.Lock()
	defer t.lock.Unlock()
	kept := t.kept
	if len(kept) > t.size {
		kept = kept[len(kept)-t.size:]
		if i := bytes.IndexByte(kept, '\n'); i >= 0 {
			kept = kept[i+1:]
		}
	}
	return strings.ToValidUTF8(string(kept), "\uFFFD")
}

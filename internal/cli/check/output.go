package check

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"pyhook/internal/report"
)

// rankOutput prints the hooks' output above the live line.
type rankOutput struct {
	mu      sync.Mutex
	w       io.Writer
	line    *report.Progress
	crashes map[int]string // the signal, by rank
	muted   map[int]bool   // ranks that crashed: Go's dump of its goroutines goes on and on
}

func newRankOutput(w io.Writer) *rankOutput {
	return &rankOutput{w: w, line: report.NewProgress(w), crashes: map[int]string{}, muted: map[int]bool{}}
}

// What Go prints when C code gets a deadly signal: which one, then all
// goroutines, whatever GOTRACEBACK says (runtime/signal_unix.go, sighandler).
var (
	crashLine     = regexp.MustCompile(`^\[rank (\d+)\] (SIG[A-Z]+: .+)`)
	goroutineLine = regexp.MustCompile(`^\[rank (\d+)\] goroutine \d+ .*\[.*\]:`)
	rankPrefix    = regexp.MustCompile(`^\[rank (\d+)\] `)
)

// crashed is the signal that ended a rank in C code, or "".
func (o *rankOutput) crashed(rank int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.crashes[rank]
}

// drop reports whether a line is not worth showing.
func (o *rankOutput) drop(line string) bool {
	if slices.ContainsFunc(noise, func(s string) bool { return strings.Contains(line, s) }) {
		return true
	}
	prefix := rankPrefix.FindStringSubmatch(line)
	if prefix == nil {
		return false
	}
	rank, err := strconv.Atoi(prefix[1])
	if err != nil {
		return false
	}
	if crash := crashLine.FindStringSubmatch(line); crash != nil {
		o.crashes[rank] = crash[2]
	}
	if o.crashes[rank] != "" && goroutineLine.MatchString(line) {
		o.muted[rank] = true
	}
	return o.muted[rank]
}

// noise are lines of libraries that say nothing of the hook (gloo's C++ prints
// the first at every start since torch 2.6).
var noise = []string{"[Gloo] Rank "}

func (o *rankOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.drop(string(p)) {
		return len(p), nil
	}
	return o.line.Write(p)
}

func (o *rankOutput) set(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.line.Set(text)
}

// showProgress shows how far rank 0 is, until the returned function is called.
func (o *rankOutput) showProgress(path string, p *checkPlan) (stop func()) {
	if !report.IsTerminal(o.w) {
		return func() {}
	}
	ended, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			o.set(progressText(path, p))
			select {
			case <-tick.C:
			case <-ended:
				o.mu.Lock()
				defer o.mu.Unlock()
				o.line.Clear()
				return
			}
		}
	}()
	return func() { close(ended); <-gone }
}

func progressText(path string, p *checkPlan) string {
	marks := readMarks(path)
	if len(marks) == 0 {
		return "starting Python and torch on each rank ..."
	}
	last := marks[len(marks)-1]
	text := fmt.Sprintf("step %d of %d, bucket %d", last.step+1, p.Steps, last.bucket+1)
	if last.phase > 0 {
		text = "in another order of buckets, to compare: " + text
	}
	return text
}

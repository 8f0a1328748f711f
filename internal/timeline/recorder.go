package timeline

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// DefaultLimit is the number of spans that a Recorder keeps, some 200 MB.
const DefaultLimit = 1_000_000

// Span is an activity from Start to End.
type Span struct {
	// Track is the row that shows the span. Spans of a track follow or enclose each
	// other, unless they are Async.
	Track string
	Name  string
	Start time.Time // wall-clock time: ranks line up as well as their hosts' clocks do
	End   time.Time // a time before Start counts as Start
	Args  map[string]any
	Async bool // may overlap others of its track
}

// Recorder keeps the spans of one rank. It is safe for concurrent use. A nil one
// drops every span.
type Recorder struct {
	rank  int
	limit int

	mu      sync.Mutex
	spans   []Span
	dropped int
}

// New returns the recorder of a rank, which keeps DefaultLimit spans.
func New(rank int) *Recorder { return &Recorder{rank: rank, limit: DefaultLimit} }

// SetLimit sets how many spans the recorder keeps. It drops later ones and counts them.
func (r *Recorder) SetLimit(spans int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit = spans
}

// Add records a span. The caller must not change its Args afterwards.
func (r *Recorder) Add(s Span) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.spans) >= r.limit {
		r.dropped++
		return
	}
	r.spans = append(r.spans, s)
}

// Since adds a span from start until now.
func (r *Recorder) Since(start time.Time, track, name string) {
	if r != nil {
		r.Add(Span{Track: track, Name: name, Start: start, End: time.Now()})
	}
}

// Spans returns a copy of the spans, ordered by start.
func (r *Recorder) Spans() []Span {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	spans := slices.Clone(r.spans)
	slices.SortStableFunc(spans, func(a, b Span) int { return a.Start.Compare(b.Start) })
	return spans
}

// Dropped returns the number of spans beyond the limit.
func (r *Recorder) Dropped() int {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped
}

// String gives the rank and the number of spans.
func (r *Recorder) String() string {
	if r == nil {
		return "no timeline"
	}
	return fmt.Sprintf("timeline of rank %d, %d spans", r.rank, len(r.Spans()))
}

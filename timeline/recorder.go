package timeline

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// DefaultLimit is the number of spans that a Recorder keeps, some 200 MB.
const DefaultLimit = 1_000_000

// Span is something that took from Start to End.
type Span struct {
	// Track is the row that the span is drawn in. Spans of a track lie beside or
	// inside each other, unless they are Async.
	Track string
	Name  string
	Start time.Time // its wall clock: ranks of one host, or of hosts in step, line up
	End   time.Time // before Start: as Start
	Args  map[string]any
	Async bool // may overlap others of its track
}

// Recorder keeps the spans of one rank. Any goroutine may add to it, and a nil
// one takes everything and keeps nothing.
type Recorder struct {
	rank  int
	limit int

	mu      sync.Mutex
	spans   []Span
	dropped int
}

// New makes the recorder of a rank, with room for DefaultLimit spans.
func New(rank int) *Recorder { return &Recorder{rank: rank, limit: DefaultLimit} }

// SetLimit sets how many spans are kept; later ones are counted and dropped.
func (r *Recorder) SetLimit(spans int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit = spans
}

// Add records a span. Its Args must not change after.
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

// Since adds a span of track that ends now.
func (r *Recorder) Since(start time.Time, track, name string) {
	if r != nil {
		r.Add(Span{Track: track, Name: name, Start: start, End: time.Now()})
	}
}

// Spans returns a copy of what is recorded, by start.
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

// Dropped returns how many spans there was no room for.
func (r *Recorder) Dropped() int {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped
}

// String says whose recorder it is and how full.
func (r *Recorder) String() string {
	if r == nil {
		return "no timeline"
	}
	return fmt.Sprintf("timeline of rank %d, %d spans", r.rank, len(r.Spans()))
}

package timeline

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"pyhook/internal/wholefile"
)

// document is a trace file, the format's JSON object form.
type document struct {
	TraceEvents     []event        `json:"traceEvents"`
	DisplayTimeUnit string         `json:"displayTimeUnit"`
	OtherData       map[string]any `json:"otherData,omitempty"`
}

// event is one of the format's: ph is "X" (complete), "b" and "e" (async) or
// "M" (metadata); times are in microseconds.
type event struct {
	Name     string         `json:"name"`
	Category string         `json:"cat,omitempty"`
	Phase    string         `json:"ph"`
	Time     float64        `json:"ts"`
	Duration *float64       `json:"dur,omitempty"`
	Process  int            `json:"pid"`
	Thread   int            `json:"tid"`
	ID       string         `json:"id,omitempty"`
	Args     map[string]any `json:"args,omitempty"`
}

// WriteTo writes the rank's trace. It implements io.WriterTo.
func (r *Recorder) WriteTo(w io.Writer) (int64, error) {
	if r == nil {
		return 0, fmt.Errorf("timeline: a nil Recorder has nothing to write")
	}
	doc := document{TraceEvents: r.events(), DisplayTimeUnit: "ms", OtherData: map[string]any{}}
	if n := r.Dropped(); n > 0 {
		doc.OtherData[fmt.Sprintf("rank %d: spans dropped", r.rank)] = n
	}
	return doc.write(w)
}

func (d *document) write(w io.Writer) (int64, error) {
	text, err := json.Marshal(d)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(append(text, '\n'))
	return int64(n), err
}

// events converts spans to the format's events. Tracks become threads, in the order
// in which they first appear.
func (r *Recorder) events() []event {
	process := event{Phase: "M", Process: r.rank}
	name, order := process, process
	name.Name, name.Args = "process_name", map[string]any{"name": fmt.Sprintf("rank %d", r.rank)}
	order.Name, order.Args = "process_sort_index", map[string]any{"sort_index": r.rank}
	events := []event{name, order}
	threads := map[string]int{}
	for i, s := range r.Spans() {
		thread, ok := threads[s.Track]
		if !ok {
			thread = len(threads)
			threads[s.Track] = thread
			events = append(events,
				event{Name: "thread_name", Phase: "M", Process: r.rank, Thread: thread, Args: map[string]any{"name": s.Track}},
				event{Name: "thread_sort_index", Phase: "M", Process: r.rank, Thread: thread, Args: map[string]any{"sort_index": thread}})
		}
		events = append(events, s.events(r.rank, thread, i)...)
	}
	return events
}

func (s *Span) events(rank, thread, number int) []event {
	// The start is of the wall clock, the duration of the monotonic one.
	start := float64(s.Start.UnixNano()) / 1e3
	duration := max(0, float64(s.End.Sub(s.Start).Nanoseconds())/1e3)
	e := event{Name: s.Name, Category: s.Track, Phase: "X", Time: start, Duration: &duration, Process: rank, Thread: thread, Args: s.Args}
	if !s.Async {
		return []event{e}
	}
	begin, end := e, e
	begin.Duration, end.Duration, end.Args = nil, nil, nil
	begin.ID = fmt.Sprintf("%d.%d", rank, number)
	end.ID = begin.ID
	begin.Phase, end.Phase, end.Time = "b", "e", start+duration
	return []event{begin, end}
}

// WriteFile writes the rank's trace to the file path, whole or not at all, and
// creates its folder.
func (r *Recorder) WriteFile(path string) error {
	return writeFile(path, func(w io.Writer) error {
		_, err := r.WriteTo(w)
		return err
	})
}

func writeFile(path string, write func(io.Writer) error) error {
	err := os.MkdirAll(filepath.Dir(path), 0o777)
	if err == nil {
		err = wholefile.Write(path, wholefile.Public, write)
	}
	if err != nil {
		return fmt.Errorf("timeline: writing %s: %w", path, err)
	}
	return nil
}

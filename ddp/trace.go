package ddp

import (
	"fmt"
	"strconv"
	"time"

	"pyhook/c10d"
	"pyhook/internal/timeline"
)

// The tracks of Options.Timeline. Buckets have one each: "bucket 0", ...
const (
	trackTrainer     = "trainer"     // Wait
	trackHooks       = "hooks"       // hook calls and callbacks, on the reducer's goroutine
	trackCollectives = "collectives" // what the hooks issued, if they tell
)

// trace draws the steps on Options.Timeline. A nil one draws nothing.
type trace struct {
	record *timeline.Recorder
	hook   c10d.TracedHook // or nil
	begun  []time.Time     // by bucket: its first gradient of this step; under the reducer's mutex
}

func newTrace(opts Options) (*trace, error) {
	if opts.Timeline == nil {
		return nil, nil
	}
	t := &trace{record: opts.Timeline}
	hook, ok := opts.Hook.(c10d.TracedHook)
	if !ok {
		return t, nil
	}
	t.hook = hook
	err := hook.TraceCollectives(func(c c10d.Collective) {
		t.record.Add(timeline.Span{Track: trackCollectives, Name: "bucket " + strconv.Itoa(c.Bucket),
			Start: c.Start, End: c.End, Async: true, Args: map[string]any{"bucket": c.Bucket, "bytes": c.Bytes}})
	})
	return t, err
}

// close lets go of the hook, which is the caller's.
func (t *trace) close() {
	if t != nil && t.hook != nil {
		_ = t.hook.TraceCollectives(nil) // never fails
	}
}

// begin starts a step of that many buckets.
func (t *trace) begin(buckets int) {
	if t != nil {
		t.begun = make([]time.Time, buckets)
	}
}

// mark is a gradient of the bucket; its last one ends the bucket's compute.
func (t *trace) mark(bucket int, last bool) {
	if t == nil {
		return
	}
	if t.begun[bucket].IsZero() {
		t.begun[bucket] = time.Now()
	}
	if last {
		t.add(t.begun[bucket], trackOf(bucket), "compute", bucket)
	}
}

// called is a bucket's hook call.
func (t *trace) called(start time.Time, bucket int) {
	t.add(start, trackHooks, fmt.Sprintf("call, bucket %d", bucket), bucket)
}

// advanced is a level of callbacks, and the wait for its collectives.
func (t *trace) advanced(start time.Time, bucket int) {
	t.add(start, trackHooks, fmt.Sprintf("callbacks, bucket %d", bucket), bucket)
}

// reduced is a bucket's future, from the hook's return to its completion.
func (t *trace) reduced(start time.Time, bucket int) {
	t.add(start, trackOf(bucket), "in flight", bucket)
}

// copied is the copy of a result into the bucket, or from there to the trainer's
// own memory.
func (t *trace) copied(start time.Time, bucket int) {
	t.add(start, trackOf(bucket), "copy-back", bucket)
}

// waited is a whole Wait.
func (t *trace) waited(start time.Time) {
	if t != nil {
		t.record.Since(start, trackTrainer, "Wait")
	}
}

func (t *trace) add(start time.Time, track, name string, bucket int) {
	if t != nil {
		t.record.Add(timeline.Span{Track: track, Name: name, Start: start, End: time.Now(), Args: map[string]any{"bucket": bucket}})
	}
}

func trackOf(bucket int) string { return "bucket " + strconv.Itoa(bucket) }

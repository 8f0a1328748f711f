package ddp

import "pyhook/internal/timeline"

// Timeline records what a rank did and when, for Options.Timeline. Its methods:
//
//   - WriteFile(path) writes a trace file for Perfetto (ui.perfetto.dev) or chrome://tracing.
//     WriteTo writes the same to a stream.
//   - Since(start, track, name) adds a span of the trainer's own, from start until now.
//   - SetLimit(spans) changes how many spans it keeps (1,000,000); Dropped counts those beyond.
//
// Any goroutine may use it. A nil *Timeline records nothing.
type Timeline = timeline.Recorder

// NewTimeline returns an empty Timeline of a rank.
func NewTimeline(rank int) *Timeline { return timeline.New(rank) }

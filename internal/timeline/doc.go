// Package timeline records what a rank did and when, for Perfetto
// (ui.perfetto.dev) and chrome://tracing: the Trace Event Format, JSON object
// form. Ranks are its processes and tracks its threads. Trainers use it as
// ddp.Timeline.
//
// It does not know of training: package ddp documents its spans. A nil *Recorder
// records nothing, so that callers need not check for one.
package timeline

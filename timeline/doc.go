// Package timeline records what a rank did and when, for Perfetto
// (ui.perfetto.dev) and chrome://tracing: the Trace Event Format, JSON object
// form. Ranks are its processes and tracks its threads.
//
//	record := timeline.New(group.Rank())
//	reducer, _ := ddp.NewReducer(ctx, parameters, ddp.Options{Group: group, Hook: hook, Timeline: record})
//	...
//	record.WriteFile("trace.rank0.json")
//
// It knows nothing of training: package ddp says what it adds. A nil *Recorder
// records nothing, so that code need not ask whether there is one.
package timeline

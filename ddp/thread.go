package ddp

import (
	"context"

	"pyhook/c10d"
)

// anyThread is for hooks that say nothing: the launcher's goroutine calls them on
// whatever thread it has.
type anyThread struct{}

func (anyThread) Run(_, loop func()) { loop() }
func (anyThread) Waiting() bool      { return false }
func (anyThread) Serve()             {}

func (anyThread) Wait(ctx context.Context, f *c10d.Future[c10d.Result]) (c10d.Result, error) {
	return f.Wait(ctx)
}

// bindThread chooses the thread that the launcher lives on.
func bindThread(hook c10d.CommHook) c10d.BoundThread {
	if bound, ok := hook.(c10d.ThreadBound); ok {
		return bound.BindThread()
	}
	return anyThread{}
}

// launchOnThread runs the launcher on its thread. Other work for that thread wakes it
// where it waits for buckets.
func (r *Reducer) launchOnThread() {
	defer close(r.ended) // the thread is free for the next reducer then
	r.thread.Run(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.wake.Broadcast()
	}, r.launch)
}

// idleLocked waits, by the launcher with the mutex held, until something has changed, and
// does the thread's other work meanwhile.
func (r *Reducer) idleLocked() {
	if !r.thread.Waiting() {
		r.wake.Wait()
		return
	}
	r.mu.Unlock()
	defer r.mu.Lock()
	r.thread.Serve()
}

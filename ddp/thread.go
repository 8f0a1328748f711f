package ddp

import "pyhook/pyhook"

// bindThread returns what runs a hook's calls and callbacks on the thread that they
// belong on, and what lets go of it when the last is over. A hook that says nothing is
// called by the launcher's goroutine, on whatever thread that has.
func bindThread(hook pyhook.CommHook) (run func(f func()), release func()) {
	if bound, ok := hook.(pyhook.ThreadBound); ok {
		return bound.BindThread()
	}
	return func(f func()) { f() }, func() {}
}

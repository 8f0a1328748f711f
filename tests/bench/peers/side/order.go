// Package side is the process of one peer: it calls a hook as the parent orders, checks what the
// hook made of the bucket, and answers with the times. All peers are timed by the same loop.
package side

// After stdin, stdout and stderr a side has the parent's orders and its own answers, both as JSON.
const (
	ordersFD = 3
	answerFD = 4
)

// Case is a hook and what it is called with.
type Case struct {
	Hook    string // a function of python/hooks.py, or allreduce
	Bytes   int    // of the bucket's float32 buffer
	Callers int    // goroutines, each with a bucket of its own, that call at once
}

// Order has a side call the hook. The first order of a case opens it and closes the case before.
type Order struct {
	Case
	Calls int // of the first caller; 0 only checks the hook's result
	// Endure: the calls are all callers' together and are not timed one by one; memory is measured
	// around them.
	Endure bool
}

// Answer is what a side has measured.
type Answer struct {
	MedianNS, P99NS float64 // of a call; not with Endure
	WallNS          int64   // of all calls
	// Copied bytes a call, besides what the hook itself does. AtLeast: of some copies we do not know.
	Copied  int64
	AtLeast bool
	// Before and After the calls: bytes that the side and the processes below it have in memory.
	Before, After int64
	Error         string
}

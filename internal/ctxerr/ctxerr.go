// Package ctxerr makes errors from contexts that ended.
package ctxerr

import "context"

// Error names the operation that a context's end stopped, and the cause, once. errors.Is
// finds both the context's error and its cause: they differ where a context was cancelled
// because another one ended.
type Error struct {
	doing      string
	err, cause error
}

// While returns the error of an operation during which ctx ended.
func While(ctx context.Context, doing string) *Error {
	return &Error{doing, ctx.Err(), context.Cause(ctx)}
}

func (e *Error) Error() string { return e.doing + ": " + e.cause.Error() }

// Cause returns the context's cause.
func (e *Error) Cause() error { return e.cause }

// Unwrap returns the context's error and its cause.
func (e *Error) Unwrap() []error { return []error{e.err, e.cause} }

// Package ctxerr makes errors of contexts that ended.
package ctxerr

import "context"

// Error says what a context's end has stopped. Its text names what ended the context
// once, though errors.Is finds the context's error and its cause, which differ where a
// context was cancelled because another one ended.
type Error struct {
	doing      string
	err, cause error
}

// While returns the error of what was under way when ctx ended.
func While(ctx context.Context, doing string) *Error {
	return &Error{doing, ctx.Err(), context.Cause(ctx)}
}

func (e *Error) Error() string { return e.doing + ": " + e.cause.Error() }

// Unwrap returns the context's error and its cause.
func (e *Error) Unwrap() []error { return []error{e.err, e.cause} }

// Kind is an error of which errors.Is finds the context's too; its text is its own.
type Kind struct{ kind, err error }

// As returns kind, which is ctx's error too.
func As(ctx context.Context, kind error) *Kind { return &Kind{kind, ctx.Err()} }

func (k *Kind) Error() string { return k.kind.Error() }

// Unwrap returns the kind and the context's error.
func (k *Kind) Unwrap() []error { return []error{k.kind, k.err} }

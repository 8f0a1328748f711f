package pyhook

// #include "hookcall.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
)

// interruptedType is what Python raises in a hook whose context ended.
const interruptedType = "pyhook.Interrupted"

// callUntil is call, interrupted when ctx ends.
func (h *PythonCommHook) callUntil(ctx context.Context, python *pythonBucket, hook *Object, result *C.pyh_result) (stacks string, interrupted bool, err error) {
	var out C.pyh_result
	stacks, interrupted = h.rt.interpreter.Interruptible(ctx, func() { err = h.call(python, hook, &out) })
	*result = out
	return stacks, interrupted, err
}

// isInterrupted says whether a hook failed because it was interrupted.
func isInterrupted(err error) bool {
	var python *PythonError
	if !errors.As(err, &python) {
		return false
	}
	for ; python != nil; python = python.Cause {
		if python.Type == interruptedType {
			return true
		}
	}
	return false
}

// interrupted is the error of a hook that its context ended: err is what came
// of it, stacks is where every Python thread was.
func (h *PythonCommHook) interrupted(ctx context.Context, b *GradBucket, stacks string, err error) error {
	cause := context.Cause(ctx)
	return &HookError{Hook: h.name, Rank: h.rt.Rank(), Bucket: b.Index(), Kind: fmt.Errorf("%w: %w", ErrInterrupted, ctx.Err()),
		Detail: cause.Error(), Err: errors.Join(cause, err), Stacks: stacks,
		Hint: "Stacks says where it was; hook and bucket can be used again, and what it had started goes on"}
}

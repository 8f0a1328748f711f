package worker

import (
	"errors"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// remoteError is an error on its way from the worker to the trainer.
type remoteError struct {
	Text   string
	Codes  []c10d.Code // that errors.Is finds in it
	Python *pyhook.PythonError
	Error  *remoteDetails // of a *c10d.Error
}

type remoteDetails struct {
	Op                   string
	Rank, Bucket         int
	Code                 c10d.Code
	Also                 []c10d.Code
	Detail, Hint, Stacks string
}

// localError is a remoteError on the trainer's side: its text, and the causes that errors.Is and
// errors.As find.
type localError struct {
	text   string
	causes []error
}

func (e *localError) Error() string   { return e.text }
func (e *localError) Unwrap() []error { return e.causes }

// remote makes err ready to travel; nil stays nil.
func remote(err error) *remoteError {
	if err == nil {
		return nil
	}
	r := &remoteError{Text: err.Error(), Codes: c10d.CodesOf(err)}
	if errors.Is(err, tensor.ErrClosed) && !errors.Is(err, c10d.ErrClosed) {
		r.Codes = append(r.Codes, c10d.ErrClosed)
	}
	errors.As(err, &r.Python)
	var e *c10d.Error
	if errors.As(err, &e) {
		r.Error = &remoteDetails{e.Op, e.Rank, e.Bucket, e.Code, e.Also, e.Detail, e.Hint, e.Stacks}
	}
	return r
}

// local makes the error that remote was given, for errors.Is and errors.As.
func (r *remoteError) local() error {
	if r == nil {
		return nil
	}
	plain := &localError{text: r.Text}
	for _, code := range r.Codes {
		plain.causes = append(plain.causes, code)
	}
	if r.Python != nil {
		plain.causes = append(plain.causes, r.Python)
	}
	if r.Error == nil {
		return plain
	}
	e := &c10d.Error{Op: r.Error.Op, Rank: r.Error.Rank, Bucket: r.Error.Bucket, Code: r.Error.Code, Also: r.Error.Also,
		Detail: r.Error.Detail, Hint: r.Error.Hint, Stacks: r.Error.Stacks, Err: plain}
	if e.Error() != r.Text { // it was the cause of another
		return &localError{text: r.Text, causes: []error{e}}
	}
	return e
}

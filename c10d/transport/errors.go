package transport

import (
	"errors"

	"pyhook/c10d"
)

// opError is err as the error of a collective, or of what else is done with a group.
func opError(op string, rank int, err error) error {
	e := &c10d.Error{Op: op, Rank: rank, Bucket: -1, Code: c10d.ErrGroup, Detail: err.Error(), Err: err}
	var known *c10d.Error
	switch code := c10d.ContextCode(err); {
	case c10d.IsClosed(err):
		e.Also = []c10d.Code{c10d.ErrClosed}
	case errors.As(err, &known):
		e.Code, e.Hint = known.Code, known.Hint
	case code != "":
		e.Also = []c10d.Code{code}
	}
	return e
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

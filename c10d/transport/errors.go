package transport

import "pyhook/c10d"

// opError is err as the error of a collective, or of what else is done with a group.
func opError(op string, rank int, err error) error {
	return c10d.NewError(op, rank, -1, c10d.ErrGroup, err)
}

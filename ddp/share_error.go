package ddp

import (
	"bytes"
	"context"
	"fmt"

	"pyhook/c10d"
)

// sharedBytes is how much of a rank's error the others get to read.
const sharedBytes = 512

// ShareError makes one rank's failure every rank's, before a step that a rank alone would wait in:
// it returns mine if that is an error, else an error with the text of the first rank that has one,
// else nil. A collective.
func ShareError(ctx context.Context, group c10d.ProcessGroup, mine error) error {
	if err := checkGroup(group); err != nil {
		return err
	}
	text := make([]byte, 1+sharedBytes)
	if mine != nil {
		text[0] = 1
		copy(text[1:], mine.Error())
	}
	texts, err := c10d.AllGatherBytes(ctx, group, text)
	switch {
	case mine != nil:
		return mine
	case err != nil:
		return err
	}
	for rank, text := range texts {
		if text[0] != 0 {
			return fmt.Errorf("ddp, rank %d: rank %d failed: %s", group.Rank(), rank, bytes.TrimRight(text[1:], "\x00"))
		}
	}
	return nil
}

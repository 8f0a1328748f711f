package ddp

import (
	"cmp"
	"context"
	"fmt"

	"pyhook/c10d"
	"pyhook/internal/gather"
)

// ShareError makes one rank's failure every rank's, before a step that a rank alone would wait in:
// it returns mine if that is an error, else an error with the text of the first rank that has one,
// else nil. A collective.
func ShareError(ctx context.Context, group c10d.ProcessGroup, mine error) error {
	if err := checkGroup(group); err != nil {
		return err
	}
	text := ""
	if mine != nil {
		text = cmp.Or(mine.Error(), "an error without a text")
	}
	texts, err := gather.JSON(ctx, group, text)
	switch {
	case mine != nil:
		return mine
	case err != nil:
		return err
	}
	for rank, text := range texts {
		if text != "" {
			return fmt.Errorf("ddp, rank %d: rank %d failed: %s", group.Rank(), rank, text)
		}
	}
	return nil
}

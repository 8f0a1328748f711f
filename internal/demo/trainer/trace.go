package trainer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"pyhook/internal/timeline"
)

// traceLimit is how many spans a rank keeps: some 20 MB of JSON, all of which
// goes to every rank in the end.
const traceLimit = 100_000

// writeTrace gathers the ranks' timelines; rank 0 writes them.
func (r *run) writeTrace(ctx context.Context) error {
	if r.record == nil {
		return nil
	}
	var mine bytes.Buffer
	if _, err := r.record.WriteTo(&mine); err != nil {
		return err
	}
	lengths, err := gather(ctx, r.group, []int64{int64(mine.Len())})
	if err != nil {
		return fmt.Errorf("gathering the timelines: %w", err)
	}
	longest := int(slices.Max(lengths))
	all, err := gather(ctx, r.group, append(mine.Bytes(), make([]byte, longest-mine.Len())...))
	if err != nil {
		return fmt.Errorf("gathering the timelines: %w", err)
	}
	if r.world.Rank != 0 {
		return nil
	}
	parts := make([]io.Reader, len(lengths))
	for rank, n := range lengths {
		parts[rank] = bytes.NewReader(all[rank*longest : rank*longest+int(n)])
	}
	return timeline.MergeToFile(r.cfg.Trace, parts...)
}

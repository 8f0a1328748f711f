// Package gather exchanges a value of each rank.
package gather

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"pyhook/c10d"
)

// longestValue is the most bytes that a value may have.
const longestValue = 1 << 30

// JSON returns every rank's value, by rank, which travels as JSON. It is a collective: all ranks
// call it with the same T.
func JSON[T any](ctx context.Context, group c10d.ProcessGroup, mine T) ([]T, error) {
	text, err := json.Marshal(mine)
	if err != nil {
		return nil, err
	}
	if len(text) > longestValue {
		return nil, fmt.Errorf("a value of %d bytes is too long to exchange", len(text))
	}
	lengths, err := c10d.AllGatherBytes(ctx, group, binary.LittleEndian.AppendUint32(nil, uint32(len(text))))
	if err != nil {
		return nil, err
	}
	longest := uint32(0)
	for rank, length := range lengths {
		n := binary.LittleEndian.Uint32(length)
		if n > longestValue || rank == group.Rank() && int(n) != len(text) {
			return nil, fmt.Errorf("rank %d says that it sends %d bytes: the ranks are not in the same collective", rank, n)
		}
		longest = max(longest, n)
	}
	// All ranks must send as many bytes.
	texts, err := c10d.AllGatherBytes(ctx, group, append(text, make([]byte, int(longest)-len(text))...))
	if err != nil {
		return nil, err
	}
	all := make([]T, len(texts))
	for rank, text := range texts {
		if err := json.Unmarshal(text[:binary.LittleEndian.Uint32(lengths[rank])], &all[rank]); err != nil {
			return nil, fmt.Errorf("reading what rank %d sent: %w", rank, err)
		}
	}
	return all, nil
}

package ddp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"pyhook/c10d"
	"pyhook/tensor"
)

// ErrValues: the ranks' parameters have different values.
const ErrValues c10d.Code = "values"

// VerifyValues checks that the parameters' values (Parameter.Data, which all must have, contiguous)
// are the same bits on every rank: what all ranks' optimisers should have kept them. A collective:
// one all-gather of 32 bytes where they are. Else every rank gets a *ParameterError that is
// ErrValues and names the first parameter that differs, and which ranks have it alike; or that is
// ErrMismatch, if the lists themselves differ. The values must not change meanwhile.
func VerifyValues(ctx context.Context, group c10d.ProcessGroup, params []*c10d.Parameter) error {
	if err := checkGroup(group); err != nil {
		return err
	}
	// A rank that cannot read its values takes part, or the others would wait for it.
	digests, unreadable := digestsOf(params)
	total := sha256.Sum256(digests)
	totals, err := c10d.AllGatherBytes(ctx, group, total[:])
	if err != nil {
		return fmt.Errorf("comparing the parameters' values: %w", err)
	}
	if len(slices.CompactFunc(totals, bytes.Equal)) == 1 {
		return unreadable
	}
	if err := VerifyParameters(ctx, group, params); err != nil {
		return err
	}
	lists, err := c10d.AllGatherBytes(ctx, group, digests)
	switch {
	case unreadable != nil:
		return unreadable
	case err != nil:
		return fmt.Errorf("comparing the parameters' values: %w", err)
	}
	for i, p := range params {
		alike := ranksByDigest(lists, i*sha256.Size)
		if len(alike) > 1 {
			return &ParameterError{Rank: group.Rank(), Names: []string{p.Name}, Code: ErrValues,
				Detail: fmt.Sprintf("parameter %d, the first of them, has one value on %s", i, strings.Join(alike, ", another on ")),
				Hint:   "broadcast the parameters at the start and after loading a checkpoint, give all ranks the same optimiser, and update parameters from reduced gradients only"}
		}
	}
	return nil
}

// digestsOf returns one digest after another; zeros for values that cannot be read.
func digestsOf(params []*c10d.Parameter) (digests []byte, unreadable error) {
	for i, p := range params {
		var digest [sha256.Size]byte
		raw, err := valuesOf(i, p)
		if err == nil {
			digest = sha256.Sum256(raw)
		} else if unreadable == nil {
			unreadable = err
		}
		digests = append(digests, digest[:]...)
	}
	return digests, unreadable
}

func valuesOf(i int, p *c10d.Parameter) ([]byte, error) {
	if p == nil || p.Data == nil {
		return nil, fmt.Errorf("comparing the parameters' values: parameter %d has no Data", i)
	}
	raw, err := tensor.RawBytes(p.Data)
	if err != nil {
		return nil, fmt.Errorf("comparing the parameters' values: %s: %w", p.Name, err)
	}
	return raw, nil
}

// ranksByDigest names the ranks that have the same digest at an offset of their lists, as "rank 0"
// or "ranks 1 and 3".
func ranksByDigest(lists [][]byte, offset int) (names []string) {
	at := func(rank int) string { return string(lists[rank][offset : offset+sha256.Size]) }
	seen := map[string]bool{}
	for first := range lists {
		if seen[at(first)] {
			continue
		}
		seen[at(first)] = true
		var ranks []string
		for rank := range lists {
			if at(rank) == at(first) {
				ranks = append(ranks, fmt.Sprint(rank))
			}
		}
		name := "rank " + ranks[0]
		if last := len(ranks) - 1; last > 0 {
			name = "ranks " + strings.Join(ranks[:last], ", ") + " and " + ranks[last]
		}
		names = append(names, name)
	}
	return names
}

package ddp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"pyhook/c10d"
	"pyhook/tensor"
)

// ErrValues: the ranks' parameters have different values.
const ErrValues c10d.Code = "values"

// VerifyValues checks that the parameters' values (Parameter.Data, which all must have, contiguous)
// are the same bits on every rank: what all ranks' optimisers should have kept them. A collective:
// one all-gather of 32 bytes where they are. Else every rank gets a *ParameterError that is
// ErrValues and names the first parameter that differs, and which ranks have it alike; or that is
// ErrMismatch, if the lists themselves differ. The values must not change meanwhile. Of values on a
// device a checksum of 64 bits is compared, and the host first waits for all streams of the device.
func VerifyValues(ctx context.Context, group c10d.ProcessGroup, params []*c10d.Parameter) error {
	if err := checkGroup(group); err != nil {
		return err
	}
	// A rank that cannot read its values takes part, or the others would wait for it.
	m, failed := memoriesOfValues(ctx, group, params, 0)
	defer m.close()
	digests, unreadable := digestsOf(params, m)
	if failed != nil {
		unreadable = &unreadableError{"", failed}
	}
	total := sha256.Sum256(digests)
	totals, err := c10d.AllGatherBytes(ctx, group, total[:])
	if err != nil {
		return fmt.Errorf("comparing the parameters' values: %w", err)
	}
	fails := func() error { return fmt.Errorf("comparing the parameters' values: %w", unreadable) }
	if len(slices.CompactFunc(totals, bytes.Equal)) == 1 {
		if unreadable != nil {
			return fails()
		}
		return nil
	}
	if err := VerifyParameters(ctx, group, params); err != nil {
		return err
	}
	lists, err := c10d.AllGatherBytes(ctx, group, digests)
	switch {
	case unreadable != nil:
		return fails()
	case err != nil:
		return fmt.Errorf("comparing the parameters' values: %w", err)
	}
	for i, p := range params {
		if groups := alike(lists, i*sha256.Size); len(groups) > 1 {
			return valuesError(group.Rank(), i, p, groups)
		}
	}
	return nil
}

// unreadableError is of values that cannot be read.
type unreadableError struct {
	name string
	err  error
}

func (e *unreadableError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *unreadableError) Unwrap() error { return e.err }

// digestsOf returns one digest of sha256.Size after another; zeros for values that cannot be read, of
// which unreadable names the first. m are the values' memories: see memoriesOfValues.
func digestsOf(params []*c10d.Parameter, m memories) (digests []byte, unreadable *unreadableError) {
	digests = make([]byte, 0, len(params)*sha256.Size)
	began := m.begin()
	for i, p := range params {
		var digest [sha256.Size]byte
		raw, err := valuesOf(i, p, m)
		if began != nil && err == nil {
			err = &unreadableError{p.Name, began}
		}
		if err == nil {
			digest = sha256.Sum256(raw)
		} else if unreadable == nil {
			unreadable = err
		}
		digests = append(digests, digest[:]...)
	}
	return digests, unreadable
}

// valuesOf returns the bytes of values on the CPU, and a checksum of those on a device.
func valuesOf(i int, p *c10d.Parameter, m memories) ([]byte, *unreadableError) {
	if p == nil || p.Data == nil {
		name := ""
		if p != nil {
			name = p.Name
		}
		return nil, &unreadableError{name, fmt.Errorf("parameter %d, %q, has no Data", i, name)}
	}
	var raw []byte
	var err error
	if device := m.at(i).device(); device != nil && p.Data.IsContiguous() && !p.Data.IsClosed() {
		var sum uint64
		sum, err = device.Checksum(p.Data)
		raw = binary.LittleEndian.AppendUint64(nil, sum)
	} else {
		raw, err = tensor.RawBytes(p.Data)
	}
	if err != nil {
		return nil, &unreadableError{p.Name, fmt.Errorf("%s: %w", p.Name, err)}
	}
	return raw, nil
}

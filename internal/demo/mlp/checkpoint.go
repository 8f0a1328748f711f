package mlp

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// Checkpoint is a training run's state between two steps: a copy that shares
// nothing with the network and the optimiser it was taken from.
type Checkpoint struct {
	Sizes    []int       // the network's layer sizes
	Step     uint64      // optimiser steps taken
	Params   [][]float32 // values in Network.Params' order
	Velocity [][]float32 // SGD.Velocity in the same order, nil if there is none
	// Meta is the caller's, at most MaxMeta bytes: for example the seed and the
	// epoch as JSON.
	Meta []byte
}

// MaxMeta is the most bytes that Checkpoint.Meta may have.
const MaxMeta = 1 << 20

// The file: the header, sizes, values, velocity, meta, then the SHA-256 of all
// before it. Numbers are little-endian.
//
//	magic     8 bytes   "pyhkmlp\n"
//	version   uint32    1
//	sizes     uint32    count, then as many uint32
//	step      uint64
//	velocity  uint8     0 or 1
//	meta      uint32    length, then as many bytes
//	values    float32   all parameters in forward order
//	velocity  float32   as many again, if there is one
//	digest    32 bytes
const (
	checkpointMagic   = "pyhkmlp\n"
	checkpointVersion = 1
	maxLayers         = 1 << 10
	// maxCheckpoint is the largest file that checkpointVersion can describe.
	maxCheckpoint = 2*4*maxParams + MaxMeta + 4*maxLayers + 128
)

// CorruptError says that a checkpoint cannot be what Save wrote: it is torn,
// damaged or something else.
type CorruptError struct{ Reason string }

// Error implements error.
func (e *CorruptError) Error() string { return "mlp: the checkpoint is corrupt: " + e.Reason }

// VersionError says that a checkpoint is whole but of a form this program does not know.
type VersionError struct{ Got, Known uint32 }

// Error implements error.
func (e *VersionError) Error() string {
	return fmt.Sprintf("mlp: the checkpoint has version %d, this program knows %d", e.Got, e.Known)
}

// Checkpoint copies the state of n and opt after step optimiser steps.
func (n *Network) Checkpoint(opt *SGD, step uint64) *Checkpoint {
	c := &Checkpoint{Sizes: n.Sizes(), Step: step, Velocity: cloneAll(opt.Velocity)}
	for _, p := range n.params {
		c.Params = append(c.Params, slices.Clone(p.Value))
	}
	return c
}

// Restore copies c into n, whose Params stay where they are, and into opt.Velocity,
// which is replaced. LR, Momentum and WeightDecay are the caller's business. If c
// does not fit n nothing has changed.
func (c *Checkpoint) Restore(n *Network, opt *SGD) error {
	if !slices.Equal(c.Sizes, n.sizes) {
		return fmt.Errorf("mlp: the checkpoint is of a network with layer sizes %v, not %v", c.Sizes, n.sizes)
	}
	if err := c.check(n.params); err != nil {
		return err
	}
	for i, p := range n.params {
		copy(p.Value, c.Params[i])
	}
	opt.Velocity = cloneAll(c.Velocity)
	return nil
}

func (c *Checkpoint) check(params []Param) error {
	if err := checkGrads(params, c.Params); err != nil {
		return fmt.Errorf("mlp: checkpoint values: %w", err)
	}
	if c.Velocity != nil {
		if err := checkGrads(params, c.Velocity); err != nil {
			return fmt.Errorf("mlp: checkpoint velocity: %w", err)
		}
	}
	return nil
}

// Save writes c to w in the form above. It does not close w; to replace a file,
// write a temporary one beside it and rename it.
func (c *Checkpoint) Save(w io.Writer) error {
	if err := CheckSizes(c.Sizes); err != nil {
		return err
	}
	if len(c.Sizes) > maxLayers || len(c.Meta) > MaxMeta {
		return fmt.Errorf("mlp: a checkpoint has room for %d sizes and %d bytes of meta, not %d and %d",
			maxLayers, MaxMeta, len(c.Sizes), len(c.Meta))
	}
	if err := c.check(zeroParams(c.Sizes)); err != nil {
		return err
	}
	head := []byte(checkpointMagic)
	head = binary.LittleEndian.AppendUint32(head, checkpointVersion)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(c.Sizes)))
	for _, size := range c.Sizes {
		head = binary.LittleEndian.AppendUint32(head, uint32(size))
	}
	head = binary.LittleEndian.AppendUint64(head, c.Step)
	hasVelocity := byte(0)
	if c.Velocity != nil {
		hasVelocity = 1
	}
	head = append(head, hasVelocity)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(c.Meta)))
	head = append(head, c.Meta...)

	digest := sha256.New()
	both := io.MultiWriter(digest, w)
	if _, err := both.Write(head); err != nil {
		return fmt.Errorf("mlp: saving a checkpoint: %w", err)
	}
	for _, values := range slices.Concat(c.Params, c.Velocity) {
		if err := writeFloats(both, values); err != nil {
			return fmt.Errorf("mlp: saving a checkpoint: %w", err)
		}
	}
	if _, err := w.Write(digest.Sum(nil)); err != nil {
		return fmt.Errorf("mlp: saving a checkpoint: %w", err)
	}
	return nil
}

// Load reads what Save wrote, to r's end. It returns a *CorruptError for anything
// else, a *VersionError for a later form, or r's own error wrapped. It allocates in
// proportion to what r yields, never to what a damaged header claims.
func Load(r io.Reader) (*Checkpoint, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxCheckpoint+1))
	if err != nil {
		return nil, fmt.Errorf("mlp: loading a checkpoint: %w", err)
	}
	switch {
	case len(raw) > maxCheckpoint:
		return nil, &CorruptError{fmt.Sprintf("it is longer than %d bytes", maxCheckpoint)}
	case !bytes.HasPrefix(raw, []byte(checkpointMagic)):
		return nil, &CorruptError{"it does not start as a checkpoint does"}
	case len(raw) < len(checkpointMagic)+sha256.Size:
		return nil, &CorruptError{fmt.Sprintf("it ends after %d bytes", len(raw))}
	}
	body, want := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], want) {
		return nil, &CorruptError{"its SHA-256 does not match"}
	}
	d := decoder{rest: body[len(checkpointMagic):]}
	if version := d.uint32(); d.err == nil && version != checkpointVersion {
		return nil, &VersionError{version, checkpointVersion}
	}
	c := d.checkpoint()
	if d.err != nil {
		return nil, &CorruptError{d.err.Error()}
	}
	return c, nil
}

func cloneAll(s [][]float32) [][]float32 {
	if s == nil {
		return nil
	}
	out := make([][]float32, len(s))
	for i := range s {
		out[i] = slices.Clone(s[i])
	}
	return out
}

// decoder takes values off rest; after the first error it yields zeros.
type decoder struct {
	rest []byte
	err  error
}

var errShort = errors.New("it ends too early")

func (d *decoder) take(n int) []byte {
	if d.err == nil && n > len(d.rest) {
		d.err = errShort
	}
	if d.err != nil {
		return nil
	}
	out := d.rest[:n]
	d.rest = d.rest[n:]
	return out
}

func (d *decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) floats(n int) []float32 {
	b := d.take(4 * n)
	if b == nil {
		return nil
	}
	out := make([]float32, n)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return out
}

// checkpoint decodes what follows the version. It sets d.err unless all is well
// formed and used up.
func (d *decoder) checkpoint() *Checkpoint {
	c := &Checkpoint{}
	count := d.uint32()
	if d.err == nil && count > maxLayers {
		d.err = fmt.Errorf("it claims %d layer sizes", count)
		return nil
	}
	for range count {
		c.Sizes = append(c.Sizes, int(d.uint32()))
	}
	if d.err == nil {
		d.err = CheckSizes(c.Sizes)
	}
	if step := d.take(8); step != nil {
		c.Step = binary.LittleEndian.Uint64(step)
	}
	velocity := d.take(1)
	if velocity != nil && velocity[0] > 1 {
		d.err = fmt.Errorf("it says %d for whether there is a velocity", velocity[0])
	}
	if length := d.uint32(); length > MaxMeta {
		d.err = fmt.Errorf("it claims %d bytes of meta", length)
	} else if meta := d.take(int(length)); len(meta) > 0 {
		c.Meta = bytes.Clone(meta)
	}
	if d.err != nil {
		return nil
	}
	c.Params = d.tensors(c.Sizes)
	if velocity[0] == 1 {
		c.Velocity = d.tensors(c.Sizes)
	}
	if d.err == nil && len(d.rest) > 0 {
		d.err = fmt.Errorf("%d bytes follow its end", len(d.rest))
	}
	return c
}

// tensors decodes one slice for each parameter of a network with these sizes.
func (d *decoder) tensors(sizes []int) (out [][]float32) {
	for l := 1; l < len(sizes); l++ {
		out = append(out, d.floats(sizes[l]*sizes[l-1]), d.floats(sizes[l]))
	}
	return out
}

// writeFloats writes values as little-endian float32.
func writeFloats(w io.Writer, values []float32) error {
	buf := make([]byte, 0, 4<<10)
	for chunk := range slices.Chunk(values, cap(buf)/4) {
		buf = buf[:0]
		for _, v := range chunk {
			buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v))
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

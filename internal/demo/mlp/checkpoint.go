package mlp

import (
	"compress/gzip"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Checkpoint is a training run's state between two steps.
type Checkpoint struct {
	Sizes    []int // the network's layer sizes
	Step     int   // optimiser steps taken
	Params   [][]float32
	Velocity [][]float32 // SGD.Velocity; nil if there is none
	Meta     []byte      // the caller's
}

// Checkpoint returns the state of n and opt after step optimiser steps, in their own memory: Save
// it before the next step.
func (n *Network) Checkpoint(opt *SGD, step int) *Checkpoint {
	c := &Checkpoint{Sizes: n.sizes, Step: step, Velocity: opt.Velocity}
	for _, p := range n.params {
		c.Params = append(c.Params, p.Value)
	}
	return c
}

// Restore copies c into n, whose Params stay where they are, and sets opt.Velocity. If c does not
// fit n nothing has changed.
func (c *Checkpoint) Restore(n *Network, opt *SGD) error {
	if !slices.Equal(c.Sizes, n.sizes) {
		return fmt.Errorf("mlp: the checkpoint is of a network with layer sizes %v, not %v", c.Sizes, n.sizes)
	}
	for i, p := range n.params {
		if len(c.Params) != len(n.params) || len(c.Params[i]) != len(p.Value) {
			return errors.New("mlp: the checkpoint does not have the parameters of its network")
		}
	}
	for i, p := range n.params {
		copy(p.Value, c.Params[i])
	}
	opt.Velocity = c.Velocity
	return nil
}

// Save writes c to w. It does not close w.
func (c *Checkpoint) Save(w io.Writer) error {
	zipped := gzip.NewWriter(w) // for its checksum
	return errors.Join(gob.NewEncoder(zipped).Encode(c), zipped.Close())
}

// Load reads what Save wrote, to r's end. A file that is torn, damaged or of another kind is an
// error.
func Load(r io.Reader) (*Checkpoint, error) {
	zipped, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("mlp: reading a checkpoint: %w", err)
	}
	c := &Checkpoint{}
	err = gob.NewDecoder(zipped).Decode(c)
	if err == nil {
		_, err = io.Copy(io.Discard, zipped) // to the checksum
	}
	if err != nil {
		return nil, fmt.Errorf("mlp: reading a checkpoint: %w", err)
	}
	return c, nil
}

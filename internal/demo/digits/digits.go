// Package digits is the demo trainer's data: 1,797 handwritten digits of 8x8 pixels, embedded, with
// the splits and batches that N ranks need to see disjoint parts of the same shuffled epoch without
// talking to each other.
//
// A seed gives the same split and the same batches on every machine: each shuffle is math/rand/v2's
// over rand.NewPCG(seed, stream), which Go's compatibility promise fixes. Pixels are 0 to 16
// divided by 16, which float32 holds exactly.
//
// The data's source and licence (CC BY 4.0) are in ATTRIBUTION.md.
package digits

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/csv"
	"fmt"
	"math/rand/v2"
	"strconv"
)

// One digit a line: 64 pixels from 0 to 16, and the label.
//
//go:embed digits.csv.gz
var embedded []byte

// The shape of the data.
const (
	Features = 64 // pixels of a digit, 8 rows of 8
	Classes  = 10 // labels 0 to 9
	maxPixel = 16
)

// The PCG streams: "split" and "batch" in ASCII.
const (
	splitStream = 0x73706c6974
	batchStream = 0x6261746368 << 24 // plus the epoch
)

// Dataset is a set of labelled digits.
type Dataset struct {
	X []float32 // the pixels, shape [Len(), Features], row-major, in [0, 1]
	Y []uint8   // the labels, shape [Len()], each below Classes
}

// Load returns the embedded digits.
func Load() (Dataset, error) {
	unzipped, err := gzip.NewReader(bytes.NewReader(embedded))
	if err != nil {
		return Dataset{}, fmt.Errorf("digits: %w", err)
	}
	rows, err := csv.NewReader(unzipped).ReadAll()
	if err != nil {
		return Dataset{}, fmt.Errorf("digits: %w", err)
	}
	var d Dataset
	for _, row := range rows {
		for i, field := range row {
			n, err := strconv.ParseUint(field, 10, 8)
			if err != nil {
				return Dataset{}, fmt.Errorf("digits: row %d: %w", d.Len(), err)
			}
			if i < Features {
				d.X = append(d.X, float32(n)/maxPixel)
			} else {
				d.Y = append(d.Y, uint8(n))
			}
		}
	}
	return d, nil
}

// Len returns the number of digits.
func (d Dataset) Len() int { return len(d.Y) }

// Split shuffles the digits with seed and returns copies of the first four fifths, for training,
// and of the rest, for testing.
func (d Dataset) Split(seed uint64) (train, test Dataset) {
	order := permutation(d.Len(), seed, splitStream)
	cut := d.Len() - (d.Len()+2)/5
	return d.pick(order[:cut]), d.pick(order[cut:])
}

// Batches returns what one rank takes in each step of an epoch.
//
// All ranks shuffle the digits alike, by seed and epoch, and cut them into global batches; of each,
// rank r takes the r-th of world equal parts. So the ranks' batches of a step are disjoint and
// together the batch that one rank alone would take: with a mean over ranks, world does not change
// what is trained. The digits that fill no global batch are left out of this epoch.
//
// globalBatch must be a positive multiple of world, and at most d.Len().
func (d Dataset) Batches(seed uint64, epoch, globalBatch, rank, world int) ([]Dataset, error) {
	if globalBatch < 1 || globalBatch%world != 0 || globalBatch > d.Len() {
		return nil, fmt.Errorf("digits: global batch %d must be a multiple of the %d ranks, and at most the %d digits there are", globalBatch, world, d.Len())
	}
	order := permutation(d.Len(), seed, batchStream+uint64(epoch))
	local := globalBatch / world
	var batches []Dataset
	for from := rank * local; len(batches) < d.Len()/globalBatch; from += globalBatch {
		batches = append(batches, d.pick(order[from:from+local]))
	}
	return batches, nil
}

// pick copies the digits at the given indices, in that order.
func (d Dataset) pick(indices []int) (out Dataset) {
	for _, i := range indices {
		out.X = append(out.X, d.X[i*Features:(i+1)*Features]...)
		out.Y = append(out.Y, d.Y[i])
	}
	return out
}

// permutation returns 0..n-1 shuffled by PCG(seed, stream).
func permutation(n int, seed, stream uint64) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	rand.New(rand.NewPCG(seed, stream)).Shuffle(n, func(i, j int) { order[i], order[j] = order[j], order[i] })
	return order
}

package digits

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// The shape of the data.
const (
	Features = 64 // pixels of a digit, 8 rows of 8
	Classes  = 10 // labels 0 to 9
	maxPixel = 16
)

// splitStream is the PCG stream of Split; see the package comment.
const splitStream = 0x73706c6974

// Dataset is a set of labelled digits. The caller owns the slices; a Dataset
// copied by value shares them.
type Dataset struct {
	// X holds the pixels, float32, shape [Len(), Features], row-major, in [0, 1].
	X []float32
	// Y holds the labels, shape [Len()], each below Classes.
	Y []uint8
}

// Len returns the number of digits.
func (d Dataset) Len() int { return len(d.Y) }

// Row returns digit i's pixels: a view of d.X, shape [Features].
func (d Dataset) Row(i int) []float32 {
	return d.X[i*Features : (i+1)*Features : (i+1)*Features]
}

// Split shuffles the digits with seed and returns copies of the first part for
// training and the rest for testing: round(testFraction * Len()) digits, but at
// least one in each part. The same seed and data give the same parts in the same
// order everywhere. testFraction must lie strictly between 0 and 1.
func (d Dataset) Split(testFraction float64, seed uint64) (train, test Dataset, err error) {
	if !(testFraction > 0 && testFraction < 1) {
		return train, test, fmt.Errorf("digits: test fraction %v is not between 0 and 1", testFraction)
	}
	if d.Len() < 2 {
		return train, test, fmt.Errorf("digits: cannot split %d digits in two parts", d.Len())
	}
	n := int(math.Round(testFraction * float64(d.Len())))
	n = min(max(n, 1), d.Len()-1)
	order := permutation(d.Len(), seed, splitStream)
	cut := d.Len() - n
	return d.pick(order[:cut]), d.pick(order[cut:]), nil
}

// pick copies the digits at the given indices, in that order.
func (d Dataset) pick(indices []int) Dataset {
	out := Dataset{
		X: make([]float32, len(indices)*Features),
		Y: make([]uint8, len(indices)),
	}
	d.gather(indices, out.X, out.Y)
	return out
}

// gather writes the digits at the given indices into x [len(indices), Features]
// and y [len(indices)].
func (d Dataset) gather(indices []int, x []float32, y []uint8) {
	for to, from := range indices {
		copy(x[to*Features:(to+1)*Features], d.Row(from))
		y[to] = d.Y[from]
	}
}

// permutation returns 0..n-1 shuffled by PCG(seed, stream).
func permutation(n int, seed, stream uint64) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	rng := rand.New(rand.NewPCG(seed, stream))
	rng.Shuffle(n, func(i, j int) { order[i], order[j] = order[j], order[i] })
	return order
}

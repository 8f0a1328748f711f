package compare

import (
	"math"

	"pyhook/tensor"
)

// sampled is how many elements of a model the accumulated error is taken over, at most.
const sampled = 4 << 20

// chunk is how many elements are compared at once: it bounds the memory that a bucket of any size
// takes.
const chunk = 1 << 18

// deviation compares results with the exact mean: over all elements in each step, and accumulated
// over the steps for every stride-th element.
type deviation struct {
	stride      int64
	difference  []float64 // the sum over the steps of result - mean, of the sampled elements
	mean        []float64 // and of mean
	sumDD       float64   // of the step: the sum of (result - mean)^2
	sumMM       float64   // of mean^2
	sumRR       float64
	sumRM       float64
	first       int64 // the element of the model that the next bucket begins with
	wide, other *tensor.Tensor
	total       []float64 // of a chunk: the ranks' sum
}

func newDeviation(elements int64) (*deviation, error) {
	d := &deviation{stride: (elements + sampled - 1) / sampled}
	n := (elements + d.stride - 1) / d.stride
	d.difference, d.mean, d.total = make([]float64, n), make([]float64, n), make([]float64, chunk)
	var err error
	if d.wide, err = tensor.New(tensor.Float64, chunk); err != nil {
		return nil, err
	}
	d.other, err = tensor.New(tensor.Float64, chunk)
	return d, err
}

func (d *deviation) close() {
	d.wide.Close()
	d.other.Close()
}

// add compares a bucket's result with the ranks' gradients, flat tensors of as many elements.
func (d *deviation) add(result *tensor.Tensor, gradients []*tensor.Tensor) error {
	for from := int64(0); from < result.Len(); from += chunk {
		n := min(chunk, result.Len()-from)
		clear(d.total)
		for _, g := range gradients {
			values, err := widen(d.wide, g, from, n)
			if err != nil {
				return err
			}
			for i, v := range values {
				d.total[i] += v
			}
		}
		values, err := widen(d.other, result, from, n)
		if err != nil {
			return err
		}
		ranks := float64(len(gradients))
		for i, r := range values {
			m := d.total[i] / ranks
			d.sumDD += (r - m) * (r - m)
			d.sumMM += m * m
			d.sumRR += r * r
			d.sumRM += r * m
			if at := d.first + from + int64(i); at%d.stride == 0 {
				d.difference[at/d.stride] += r - m
				d.mean[at/d.stride] += m
			}
		}
	}
	d.first += result.Len()
	return nil
}

// widen copies n elements from from on into scratch.
func widen(scratch, t *tensor.Tensor, from, n int64) ([]float64, error) {
	into, err := scratch.View(0, []int64{n}, nil)
	if err != nil {
		return nil, err
	}
	defer into.Close()
	part, err := t.View(from, []int64{n}, nil)
	if err != nil {
		return nil, err
	}
	defer part.Close()
	if err := tensor.Copy(into, part); err != nil {
		return nil, err
	}
	return tensor.Slice[float64](into)
}

// Deviation is how far the results of a step are from the exact mean.
type Deviation struct {
	Error       float64 `json:"error"`       // |result - mean| / |mean|, Euclidean, over the whole model
	Accumulated float64 `json:"accumulated"` // the same of the sums over all steps so far
	Cosine      float64 `json:"cosine"`      // of the angle between result and mean
}

// step ends a step; ok is false where a result or a mean was not finite, or all means were 0.
func (d *deviation) step() (s Deviation, ok bool) {
	var difference, mean float64
	for i, v := range d.difference {
		difference += v * v
		mean += d.mean[i] * d.mean[i]
	}
	s = Deviation{Error: math.Sqrt(d.sumDD / d.sumMM), Accumulated: math.Sqrt(difference / mean)}
	if d.sumRR > 0 { // a result of nothing but zeros has no direction: cosine 0
		s.Cosine = d.sumRM / math.Sqrt(d.sumRR*d.sumMM)
	}
	d.sumDD, d.sumMM, d.sumRR, d.sumRM, d.first = 0, 0, 0, 0, 0
	for _, v := range []float64{s.Error, s.Accumulated, s.Cosine} {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return s, false
		}
	}
	return s, true
}

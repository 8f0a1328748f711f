package check

import "math"

// deviation is how far a result is from the exact mean.
type deviation struct {
	Max float64 `json:"max"` // largest error, relative to the largest element of the mean
	RMS float64 `json:"rms"` // norm of the error, relative to the mean's norm
}

// compare returns the deviation, and how many elements are not finite; those
// have none. Of a mean of zeros the errors are absolute.
func compare(result, mean []float64) (d deviation, nonFinite int64) {
	var worst, largest, errors, norm float64
	for i, want := range mean {
		got := result[i]
		if math.IsNaN(got) || math.IsInf(got, 0) {
			nonFinite++
			continue
		}
		off := got - want
		worst, largest = max(worst, math.Abs(off)), max(largest, math.Abs(want))
		errors, norm = errors+off*off, norm+want*want
	}
	if largest > 0 {
		return deviation{worst / largest, math.Sqrt(errors / norm)}, nonFinite
	}
	return deviation{worst, math.Sqrt(errors)}, nonFinite
}

func (d deviation) worse(other deviation) deviation {
	return deviation{max(d.Max, other.Max), max(d.RMS, other.RMS)}
}

package lossplot

import (
	"math"
	"strconv"

	"gonum.org/v1/plot"
)

// mostLabels is about how many numbers an axis has room for.
const mostLabels = 10

// stepTicks labels whole steps at 1, 2 or 5 times a power of ten. plot.DefaultTicks
// would give about three labels, at fractions for a short run.
type stepTicks struct{}

// Ticks implements plot.Ticker.
func (stepTicks) Ticks(low, high float64) (ticks []plot.Tick) {
	size := math.Pow(10, math.Floor(math.Log10(max((high-low)/mostLabels, 1))))
	for _, m := range []float64{1, 2, 5, 10} {
		if (high-low)/(m*size) <= mostLabels {
			size *= m
			break
		}
	}
	for i := math.Ceil(low / size); i*size <= high; i++ {
		v := i * size
		ticks = append(ticks, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'f', 0, 64)})
	}
	return ticks
}

// decadeTicks labels a logarithmic axis at 1, 2 and 5 times powers of ten, or at
// powers of ten alone where that would be crowded. plot.LogTicks labels powers only,
// which for losses from 0.2 to 3 would be a single number.
type decadeTicks struct{}

// Ticks implements plot.Ticker.
func (decadeTicks) Ticks(low, high float64) (ticks []plot.Tick) {
	first, last := int(math.Floor(math.Log10(low))), int(math.Ceil(math.Log10(high)))
	between := last-first <= 4
	every := 1 + (last-first)/mostLabels
	for e := first; e <= last; e++ {
		for m := 1; m < 10; m++ {
			v := float64(m) * math.Pow10(e)
			if v < low || v > high {
				continue
			}
			t := plot.Tick{Value: v}
			if m == 1 && e%every == 0 || between && (m == 2 || m == 5) {
				t.Label = strconv.FormatFloat(v, 'g', 2, 64)
			}
			ticks = append(ticks, t)
		}
	}
	return ticks
}

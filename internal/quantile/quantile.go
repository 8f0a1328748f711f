// Package quantile has the quantiles of measured values.
package quantile

import (
	"math"
	"slices"
)

// At returns a quantile of values, and interpolates between the nearest two. NaN: there are no
// values.
func At[N ~int64 | ~float64](values []N, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	below := int(math.Floor(at))
	above := int(math.Ceil(at))
	return float64(sorted[below]) + (at-float64(below))*float64(sorted[above]-sorted[below])
}

// Median is the quantile 0.5.
func Median[N ~int64 | ~float64](values []N) float64 { return At(values, 0.5) }

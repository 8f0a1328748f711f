// Package lossplot draws training losses, a line for each run or hook, into one PNG.
package lossplot

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// Series is one line of the chart.
type Series struct {
	Name  string    // for the legend
	First int       // the step of the first loss
	Loss  []float64 // by step; what is not finite is left out and counted in the legend
}

// ErrNothingToDraw is wrapped by Write's error when no series has a finite loss.
var ErrNothingToDraw = errors.New("no series has a finite loss")

// windows is how many averaging windows a series has. A mini-batch's loss jumps about: a series is
// drawn as an exponential moving average, corrected for its start as Adam's moments are.
const windows = 30

// Write draws the series into a PNG at path, and makes its folder.
func Write(path, title string, series []Series) error {
	p, err := New(title, series)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return fmt.Errorf("lossplot: %w", err)
	}
	if err := p.Save(8*vg.Inch, 5*vg.Inch, path); err != nil {
		return fmt.Errorf("lossplot: %w", err)
	}
	return nil
}

// New returns the chart of the series. The loss axis is logarithmic where all losses are above zero
// and the largest is 10 times the smallest or more. Equivalent hooks' lines lie on each other: series
// differ by colour and by dash, and each is thinner than the one under it.
func New(title string, series []Series) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, "step", "loss"
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	lowest, highest := math.Inf(1), math.Inf(-1)
	for i, s := range series {
		points, name := s.smoothed()
		line, err := plotter.NewLine(points)
		if errors.Is(err, plotter.ErrNoData) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("lossplot: %w", err)
		}
		line.Color, line.Dashes = plotutil.Color(i), plotutil.Dashes(i)
		line.Width = vg.Points(3.2 - 1.8*float64(i)/float64(len(series)))
		for _, point := range points {
			lowest, highest = min(lowest, point.Y), max(highest, point.Y)
		}
		p.Add(line)
		p.Legend.Add(name, line)
	}
	if lowest > highest {
		return nil, fmt.Errorf("lossplot: %w", ErrNothingToDraw)
	}
	if lowest > 0 && highest >= 10*lowest {
		p.Y.Scale, p.Y.Tick.Marker, p.Y.Label.Text = plot.LogScale{}, decadeTicks{}, "loss (log scale)"
	}
	return p, nil
}

// smoothed returns the averaged losses that are finite, and what the legend says.
func (s Series) smoothed() (points plotter.XYs, name string) {
	points = Smooth(s.First, s.Loss)
	if lost := len(s.Loss) - len(points); lost > 0 {
		return points, fmt.Sprintf("%s (not finite %dx)", s.Name, lost)
	}
	return points, s.Name
}

// Smooth returns the averages of those values that are finite, by step from first on.
func Smooth(first int, values []float64) (points plotter.XYs) {
	keep := 1 - 1/max(float64(len(values))/windows, 1)
	var mean, weight float64
	for i, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		mean, weight = keep*mean+(1-keep)*v, keep*weight+(1-keep)
		points = append(points, plotter.XY{X: float64(first + i), Y: mean / weight})
	}
	return points
}

// decadeTicks labels a logarithmic axis at 1, 2 and 5 times powers of ten. plot.LogTicks labels the
// powers only, which for losses from 0.2 to 3 would be a single number.
type decadeTicks struct{}

// Ticks implements plot.Ticker.
func (decadeTicks) Ticks(low, high float64) (ticks []plot.Tick) {
	for e := int(math.Floor(math.Log10(low))); e <= int(math.Ceil(math.Log10(high))); e++ {
		for _, m := range []float64{1, 2, 5} {
			if v := m * math.Pow10(e); v >= low && v <= high {
				ticks = append(ticks, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'g', 2, 64)})
			}
		}
	}
	return ticks
}

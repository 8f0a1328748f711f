package lossplot

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
)

// Series is one line of the chart. Write only reads it.
type Series struct {
	Name  string    // for the legend
	Steps []int     // x, in any order that should be drawn; usually 0, 1, 2...
	Loss  []float64 // y, as many as Steps; NaN and Inf are left out and told in the legend
}

// ErrNothingToDraw is wrapped by Write's error when no series has a finite loss.
var ErrNothingToDraw = errors.New("no series has a finite loss")

// Options change the look; the zero value is the default one.
type Options struct {
	// Linear keeps the loss axis linear. Otherwise it is logarithmic if all losses
	// are above zero and the largest is 10 times the smallest or more.
	Linear bool
	// Raw draws losses as they are. Otherwise series of 60 points or more are drawn
	// as an exponential moving average over about a thirtieth of their points, with
	// the raw losses faint behind.
	Raw bool
}

// Write draws the series into a PNG of 1600x1000 pixels at path with default Options.
// The file is replaced at once: readers see the old one or the whole new one, and on
// an error the old one stays. Calls are independent; the same input gives the same
// image.
func Write(path, title string, series []Series) error {
	return WriteWith(path, title, series, Options{})
}

// WriteWith is Write with options.
func WriteWith(path, title string, series []Series, opts Options) error {
	lines, err := prepare(series, opts)
	if err != nil {
		return fmt.Errorf("lossplot: %w", err)
	}
	png, err := render(title, lines, !opts.Linear && wideRange(lines))
	if err != nil {
		return fmt.Errorf("lossplot: drawing: %w", err)
	}
	if err := replaceFile(path, png); err != nil {
		return fmt.Errorf("lossplot: %w", err)
	}
	return nil
}

// line is a series made ready: finite, and smoothed if it is to be.
type line struct {
	label    string
	x        []float64
	raw      []float64 // nil if main is the raw loss
	main     []float64
	lost     int // points that were not finite
	lostFrom int // the first of them, by step
}

const (
	smoothFrom = 60 // points
	windows    = 30 // averaging windows in a series
)

func prepare(series []Series, opts Options) ([]line, error) {
	lines := make([]line, 0, len(series))
	drawable := false
	for _, s := range series {
		if len(s.Steps) != len(s.Loss) {
			return nil, fmt.Errorf("series %q has %d steps and %d losses", s.Name, len(s.Steps), len(s.Loss))
		}
		l := line{label: s.Name}
		for i, loss := range s.Loss {
			if math.IsNaN(loss) || math.IsInf(loss, 0) {
				if l.lost++; l.lost == 1 {
					l.lostFrom = s.Steps[i]
				}
				continue
			}
			l.x = append(l.x, float64(s.Steps[i]))
			l.main = append(l.main, loss)
		}
		if l.lost > 0 {
			l.label += fmt.Sprintf(" (not finite %dx, from step %d)", l.lost, l.lostFrom)
		}
		if !opts.Raw && len(s.Loss) >= smoothFrom {
			l.raw = l.main
			l.main = smooth(l.raw, float64(len(l.raw))/windows)
		}
		drawable = drawable || len(l.main) > 0
		lines = append(lines, l)
	}
	if !drawable {
		return nil, ErrNothingToDraw
	}
	return lines, nil
}

// smooth returns the exponential moving average with the given window (its mean
// lag in points, plus one), corrected for its start as Adam's moments are, so that it
// begins at the first value and not at zero.
func smooth(v []float64, window float64) []float64 {
	keep := 1 - 1/max(window, 1)
	out := make([]float64, len(v))
	var mean, weight float64
	for i, x := range v {
		mean = keep*mean + (1-keep)*x
		weight = keep*weight + (1 - keep)
		out[i] = mean / weight
	}
	return out
}

// wideRange says whether a logarithmic axis is possible and shows more.
func wideRange(lines []line) bool {
	low, high := math.Inf(1), math.Inf(-1)
	for _, l := range lines {
		for _, v := range append(l.raw[:len(l.raw):len(l.raw)], l.main...) {
			low, high = min(low, v), max(high, v)
		}
	}
	return low > 0 && high >= 10*low
}

// replaceFile writes data beside path and renames it into place.
func replaceFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// The first error is the one to tell; the file may be closed already.
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	// CreateTemp makes it 0600; a chart is for others too.
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

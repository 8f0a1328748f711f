// Package plot draws a comparison's charts as PNG files.
package plot

import (
	"fmt"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"

	"pyhook/internal/compare"
	"pyhook/internal/demo/lossplot"
)

// Write draws error.png, accumulated.png, bytes.png, a predicted-NETWORK.png for each network and,
// of hooks that were trained, loss.png into a folder, which it makes. It returns the files' paths.
func Write(folder string, r *compare.Report) ([]string, error) {
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return nil, fmt.Errorf("drawing: %w", err)
	}
	var files []string
	draw := func(name, title, x, y string, logX bool, points func(h *compare.HookReport) plotter.XYs) error {
		path := filepath.Join(folder, name+".png")
		drawn, err := lines(path, title+": "+r.Model, x, y, logX, r, points)
		if err != nil {
			return fmt.Errorf("drawing %s: %w", path, err)
		}
		if drawn {
			files = append(files, path)
		}
		return nil
	}
	bySteps := func(values func(h *compare.HookReport, step int) float64) func(h *compare.HookReport) plotter.XYs {
		return func(h *compare.HookReport) (points plotter.XYs) {
			for step := range h.Deviations {
				points = append(points, plotter.XY{X: float64(step + 1), Y: values(h, step)})
			}
			return points
		}
	}
	if err := draw("error", "Error to the exact mean", "step", "relative error", false,
		bySteps(func(h *compare.HookReport, step int) float64 { return h.Deviations[step].Error })); err != nil {
		return nil, err
	}
	if err := draw("accumulated", "Accumulated error", "step", "relative error", false,
		bySteps(func(h *compare.HookReport, step int) float64 { return h.Deviations[step].Accumulated })); err != nil {
		return nil, err
	}
	if err := draw("bytes", "Sent by a rank in a step", "step", "bytes", false,
		bySteps(func(h *compare.HookReport, step int) float64 { return h.BytesByStep[step] })); err != nil {
		return nil, err
	}
	for i, network := range r.Networks {
		name := fmt.Sprintf("predicted-%d-%s", i+1, filepath.Base(network.Name))
		if err := draw(name, "Predicted reduction on "+network.Name, "ranks", "seconds", true, func(h *compare.HookReport) (points plotter.XYs) {
			for _, p := range h.Predicted {
				if p.Network == network.Name {
					points = append(points, plotter.XY{X: float64(p.Ranks), Y: max(p.Seconds, p.StepSeconds)})
				}
			}
			return points
		}); err != nil {
			return nil, err
		}
	}
	var losses []lossplot.Series
	for _, h := range r.Hooks {
		if h.Training != nil {
			losses = append(losses, lossplot.Series{Name: h.Hook, First: 1, Loss: h.Training.Loss})
		}
	}
	if len(losses) > 0 {
		path := filepath.Join(folder, "loss.png")
		if err := lossplot.Write(path, "Handwritten digits: training loss by hook", losses); err != nil {
			return nil, err
		}
		files = append(files, path)
	}
	return files, nil
}

// lines draws a line for each hook that ran, on a logarithmic axis, which has no 0: a hook without
// error has no line there. It draws no file of no line.
func lines(path, title, x, y string, logX bool, r *compare.Report, points func(h *compare.HookReport) plotter.XYs) (bool, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: 2}
	if logX {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	drawn := false
	for i := range r.Hooks {
		var above plotter.XYs
		for _, point := range points(&r.Hooks[i]) {
			if point.Y > 0 {
				above = append(above, point)
			}
		}
		if len(above) == 0 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(above)
		if err != nil {
			return false, err
		}
		line.Color, line.Dashes = plotutil.Color(i), plotutil.Dashes(i)
		dots.Color, dots.Shape = plotutil.Color(i), plotutil.Shape(i)
		line.Width = vg.Points(2)
		p.Add(line, dots)
		p.Legend.Add(r.Hooks[i].Hook, line, dots)
		drawn = true
	}
	if !drawn {
		return false, nil
	}
	return true, p.Save(8*vg.Inch, 5*vg.Inch, path)
}

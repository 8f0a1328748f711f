package mnist

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"

	"pyhook/ddp"
	"pyhook/internal/demo/lossplot"
	"pyhook/internal/report"
)

// chart is what --plot draws on rank 0, of the steps that this run did. A nil chart draws nothing.
type chart struct {
	path     string
	title    string
	every    int // steps between two accuracies
	first    int // step
	loss     []float64
	split    []split
	accuracy plotter.XYs
}

// measured is how many times a chart has the accuracy, and of how many images.
const (
	measured = 20
	images   = 1000
)

// newChart is nil without --plot, and on other ranks. A folder that cannot be made is an error on
// every rank.
func (r *run) newChart(ctx context.Context) (c *chart, err error) {
	if r.flags.plot == "" {
		return nil, nil
	}
	if r.rank == 0 {
		c = &chart{path: r.flags.plot, every: max(1, r.flags.steps/measured), title: fmt.Sprintf("MNIST, %s, hook %s", report.Count(r.size, "rank"), r.flags.hook.Hook)}
		err = os.MkdirAll(filepath.Dir(c.path), 0o777)
	}
	return c, ddp.ShareError(ctx, r.group, err)
}

// add notes a step that was done. It asks for the accuracy now and then.
func (c *chart) add(step int, loss float64, took split, accuracy func(images int) (float64, error)) error {
	if c == nil {
		return nil
	}
	if c.loss == nil {
		c.first = step
	}
	c.loss, c.split = append(c.loss, loss), append(c.split, took)
	if step%c.every != 0 {
		return nil
	}
	percent, err := accuracy(images)
	c.accuracy = append(c.accuracy, plotter.XY{X: float64(step), Y: percent})
	return err
}

// write draws three charts, one below the other: loss, accuracy, and the time of a step.
func (c *chart) write() error {
	if c == nil {
		return nil
	}
	if c.loss == nil {
		fmt.Printf("no %s: the checkpoint has all steps, and this run did none\n", c.path)
		return nil
	}
	loss, err := lossplot.New(c.title, []lossplot.Series{{Name: "rank 0's batches", First: c.first, Loss: c.loss}})
	if err != nil {
		return err
	}
	accuracy, err := c.accuracies()
	if err != nil {
		return err
	}
	times, err := c.times()
	if err != nil {
		return err
	}
	canvas := vgimg.New(8*vg.Inch, 10*vg.Inch)
	charts := [][]*plot.Plot{{loss}, {accuracy}, {times}}
	for _, p := range charts {
		p[0].X.Min, p[0].X.Max = float64(c.first), max(float64(c.first+len(c.loss)-1), float64(c.first)+1)
	}
	tiles := draw.Tiles{Rows: len(charts), Cols: 1, PadY: vg.Points(12), PadTop: vg.Points(6), PadBottom: vg.Points(6), PadLeft: vg.Points(6), PadRight: vg.Points(18)}
	for i, row := range plot.Align(charts, tiles, draw.New(canvas)) {
		charts[i][0].Draw(row[0])
	}
	file, err := os.Create(c.path)
	if err != nil {
		return err
	}
	_, err = vgimg.PngCanvas{Canvas: canvas}.WriteTo(file)
	return errors.Join(err, file.Close())
}

func (c *chart) accuracies() (*plot.Plot, error) {
	p := plot.New()
	p.X.Label.Text, p.Y.Label.Text = "step", "% of test images known"
	p.Add(plotter.NewGrid())
	if len(c.accuracy) == 0 {
		return p, nil
	}
	line, dots, err := plotter.NewLinePoints(c.accuracy)
	if err != nil {
		return nil, err
	}
	line.Color, dots.Color, line.Width = plotutil.Color(1), plotutil.Color(1), vg.Points(2)
	p.Add(line, dots)
	return p, nil
}

// times draws areas above each other. The first step, in which most is made, would flatten them.
func (c *chart) times() (*plot.Plot, error) {
	p := plot.New()
	p.X.Label.Text, p.Y.Label.Text, p.Y.Min = "step", "ms on rank 0", 0
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	first, split := c.first, c.split
	if len(split) > 1 {
		first, split = first+1, split[1:]
	}
	var whole, compute []float64
	for _, s := range split {
		whole, compute = append(whole, ms(s.compute+s.reduce)), append(compute, ms(s.compute))
	}
	for i, area := range []struct {
		name   string
		values []float64
	}{{"reducing", whole}, {"computing", compute}} { // the later one covers the former
		line, err := plotter.NewLine(lossplot.Smooth(first, area.values))
		if err != nil {
			return nil, err
		}
		line.Color, line.FillColor = plotutil.Color(2+i), plotutil.Color(2+i)
		p.Add(line)
		p.Legend.Add(area.name, line)
	}
	return p, nil
}

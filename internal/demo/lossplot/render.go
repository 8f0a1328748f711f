package lossplot

import (
	"bytes"
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// 8x5 inches at 200 dots each: 1600x1000 pixels.
const (
	width  = 8 * vg.Inch
	height = 5 * vg.Inch
	dpi    = 200
)

// palette is Okabe and Ito's, without yellow (too pale on white), darkest first.
var palette = []color.NRGBA{
	{0x00, 0x72, 0xb2, 0xff}, // blue
	{0xd5, 0x5e, 0x00, 0xff}, // vermilion
	{0x00, 0x9e, 0x73, 0xff}, // green
	{0xcc, 0x79, 0xa7, 0xff}, // purple
	{0xe6, 0x9f, 0x00, 0xff}, // orange
	{0x56, 0xb4, 0xe9, 0xff}, // sky blue
	{0x22, 0x22, 0x22, 0xff}, // black
}

// dashes has 4 patterns to palette's 7 colours, so 28 series differ in one or both.
var dashes = [][]vg.Length{
	nil,
	{vg.Points(7), vg.Points(4)},
	{vg.Points(2), vg.Points(3)},
	{vg.Points(9), vg.Points(3), vg.Points(2), vg.Points(3)},
}

var (
	ink  = color.Gray{0x33}
	grid = color.Gray{0xe4}
)

// render draws the chart and returns it as PNG.
func render(title string, lines []line, logarithmic bool) ([]byte, error) {
	p := plot.New()
	style(p, title)
	if logarithmic {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, decadeTicks{}
		p.Y.Label.Text = "loss (log scale)"
	}
	g := plotter.NewGrid()
	g.Horizontal.Color, g.Vertical.Color = grid, grid
	p.Add(g)

	// All raw losses first, so that none covers a smoothed line.
	for i, l := range lines {
		if l.raw == nil {
			continue
		}
		faint, err := plotter.NewLine(points(l.x, l.raw))
		if err != nil {
			return nil, err
		}
		c := palette[i%len(palette)]
		c.A = 0x30
		faint.Color, faint.Width = c, vg.Points(0.8)
		p.Add(faint)
	}
	var legend []entry
	for i, l := range lines {
		main := &plotter.Line{LineStyle: lineStyle(i, len(lines))}
		if len(l.main) > 0 {
			main.XYs = points(l.x, l.main)
			p.Add(main)
		}
		if len(l.main) == 1 {
			p.Add(&plotter.Scatter{XYs: main.XYs, GlyphStyle: draw.GlyphStyle{
				Color: main.Color, Radius: vg.Points(3), Shape: draw.CircleGlyph{},
			}})
		}
		legend = append(legend, entry{l.label, main})
	}
	widenFlatAxes(p, logarithmic)

	canvas := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(dpi), vgimg.UseBackgroundColor(color.White))}
	page := draw.Crop(draw.New(canvas), vg.Points(10), -vg.Points(16), vg.Points(8), -vg.Points(10))
	strip := drawLegend(page, legend)
	p.Draw(draw.Crop(page, 0, 0, strip+vg.Points(8), 0))
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// style sets texts, fonts and colours.
func style(p *plot.Plot, title string) {
	p.BackgroundColor = color.Transparent
	p.Title.Text = title
	p.Title.Padding = vg.Points(8)
	p.Title.TextStyle.Font.Variant = "Sans"
	p.Title.TextStyle.Font.Size = vg.Points(14)
	p.Title.TextStyle.Color = ink
	p.X.Label.Text, p.Y.Label.Text = "step", "loss"
	p.X.Tick.Marker = stepTicks{}
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Color = ink
		axis.Label.TextStyle.Font.Variant = "Sans"
		axis.Label.TextStyle.Font.Size = vg.Points(11)
		axis.Label.TextStyle.Color = ink
		axis.Label.Padding = vg.Points(4)
		axis.Tick.Label.Font.Variant = "Sans"
		axis.Tick.Label.Font.Size = vg.Points(9)
		axis.Tick.Label.Color = ink
		axis.Tick.Color = ink
		axis.LineStyle.Color = ink
		axis.Padding = 0
	}
}

// lineStyle is series i of count's: thick at the bottom of the pile, thin on top.
func lineStyle(i, count int) draw.LineStyle {
	const thick, thin = 3.2, 1.4
	w := 2.0
	if count > 1 {
		w = thick - (thick-thin)*float64(i)/float64(count-1)
	}
	return draw.LineStyle{
		Color:  palette[i%len(palette)],
		Width:  vg.Points(w),
		Dashes: dashes[i%len(dashes)],
	}
}

func points(x, y []float64) plotter.XYs {
	out := make(plotter.XYs, len(x))
	for i := range x {
		out[i] = plotter.XY{X: x[i], Y: y[i]}
	}
	return out
}

// widenFlatAxes gives an axis whose data are one value some room on both sides.
func widenFlatAxes(p *plot.Plot, logarithmic bool) {
	if p.X.Min == p.X.Max {
		p.X.Min, p.X.Max = p.X.Min-1, p.X.Max+1
	}
	switch room := (p.Y.Max - p.Y.Min) * 0.04; {
	case logarithmic:
		p.Y.Min, p.Y.Max = p.Y.Min/1.1, p.Y.Max*1.1
	case room == 0:
		p.Y.Min, p.Y.Max = p.Y.Min-1, p.Y.Max+1
	default:
		p.Y.Min, p.Y.Max = p.Y.Min-room, p.Y.Max+room
	}
}

// entry is a legend's name and sample.
type entry struct {
	name   string
	sample plot.Thumbnailer
}

// drawLegend draws the entries at the page's bottom, in as many columns as their
// widest name allows, row by row, and returns the height it used.
func drawLegend(page draw.Canvas, entries []entry) vg.Length {
	const sample, gap, leading = 44, 18, 6 // points
	newLegend := func() plot.Legend {
		l := plot.NewLegend()
		l.Top, l.Left = true, true
		l.ThumbnailWidth, l.Padding = vg.Points(sample), vg.Points(leading)
		l.TextStyle.Font.Variant = "Sans"
		l.TextStyle.Font.Size = vg.Points(10)
		l.TextStyle.Color = ink
		return l
	}
	var widest vg.Length
	for _, e := range entries {
		one := newLegend()
		one.Add(e.name, e.sample)
		size := one.Rectangle(page).Size()
		widest = max(widest, size.X+vg.Points(gap))
	}
	room := page.Max.X - page.Min.X
	columns := min(max(int(room/widest), 1), len(entries))
	rows := (len(entries) + columns - 1) / columns
	// One line's height whatever letters it has, so that columns stay level.
	line := newLegend().TextStyle.FontExtents().Height + vg.Points(leading)
	used := line * vg.Length(rows)
	left := page.Min.X + (room-widest*vg.Length(columns)+vg.Points(gap))/2
	for i, e := range entries {
		one := newLegend()
		one.Add(e.name, e.sample)
		cell := page
		cell.Min.X = max(left, page.Min.X) + widest*vg.Length(i%columns)
		cell.Max.Y = page.Min.Y + used - line*vg.Length(i/columns)
		one.Draw(cell)
	}
	return used
}

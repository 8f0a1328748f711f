package lossplot

import (
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gonum.org/v1/plot"
)

// decaying returns a noisy loss that falls from about 2.3 to floor.
func decaying(name string, seed uint64, count int, floor float64) Series {
	rng := rand.New(rand.NewPCG(seed, 0))
	s := Series{Name: name}
	for i := range count {
		clean := floor + 2.3*math.Exp(-float64(i)/float64(count)*9)
		s.Steps = append(s.Steps, i)
		s.Loss = append(s.Loss, clean*math.Exp(0.35*rng.NormFloat64()))
	}
	return s
}

// out returns a path in LOSSPLOT_DIR, to look at the charts, or in the test's own folder.
func out(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("LOSSPLOT_DIR")
	if dir == "" {
		dir = t.TempDir()
	}
	return filepath.Join(dir, t.Name()+".png")
}

func requirePNG(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	img, err := png.Decode(f)
	require.NoError(t, err)
	assert.Equal(t, "(0,0)-(1600,1000)", img.Bounds().String())
}

func TestAChartHoldsSeveralHooksOneOfThemIdentical(t *testing.T) {
	same := decaying("allreduce (Go, no hook)", 1, 440, 0.02)
	twin := same
	twin.Name = "default_hooks.allreduce_hook"
	path := out(t)
	require.NoError(t, Write(path, "digits, 4 ranks: loss by communication hook", []Series{
		same, twin,
		decaying("default_hooks.fp16_compress_hook", 2, 440, 0.024),
		decaying("powerSGD_hook.powerSGD_hook", 3, 440, 0.08),
	}))
	requirePNG(t, path)
}

func TestAShortRunIsDrawnRawAndASinglePointAsADot(t *testing.T) {
	path := out(t)
	require.NoError(t, Write(path, "a short run", []Series{
		{"noop_hook", []int{0, 1, 2, 3}, []float64{2.3, 2.1, 1.8, 1.7}},
		{"one", []int{2}, []float64{2}},
	}))
	requirePNG(t, path)
}

func TestARunThatDivergesIsDrawnUpToThere(t *testing.T) {
	s := decaying("lr 10", 1, 100, 0.1)
	for i := 40; i < 100; i++ {
		s.Loss[i] = math.NaN()
	}
	s.Loss[30] = math.Inf(1)
	path := out(t)
	require.NoError(t, Write(path, "divergence", []Series{s, decaying("lr 0.1", 2, 100, 0.1)}))
	requirePNG(t, path)
	lines, err := prepare([]Series{s}, Options{})
	require.NoError(t, err)
	assert.Equal(t, "lr 10 (not finite 61x, from step 30)", lines[0].label)
}

func TestManySeriesWithLongNamesFit(t *testing.T) {
	var series []Series
	for i := range 9 {
		series = append(series, decaying(strings.Repeat("long_", 1+i%4)+"name", uint64(i), 200, 0.02*float64(i+1)))
	}
	path := out(t)
	require.NoError(t, WriteWith(path, "nine hooks", series, Options{Linear: true}))
	requirePNG(t, path)
}

func TestZeroAndConstantLossesAreDrawn(t *testing.T) {
	for name, loss := range map[string][]float64{"zero": {0, 0}, "constant": {1, 1}, "to zero": {1, 0}, "negative": {1, -3}} {
		require.NoError(t, Write(out(t), name, []Series{{name, []int{0, 1}, loss}}), name)
	}
}

func TestTheSameInputGivesTheSameImage(t *testing.T) {
	dir := t.TempDir()
	var images []string
	for _, name := range []string{"a.png", "b.png"} {
		path := filepath.Join(dir, name)
		require.NoError(t, Write(path, "t", []Series{decaying("s", 1, 100, 0.1)}))
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		images = append(images, string(raw))
	}
	assert.True(t, images[0] == images[1])
}

func TestWhatCannotBeDrawnLeavesTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "loss.png")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	for name, series := range map[string][]Series{
		"nothing":        nil,
		"an empty one":   {{Name: "empty"}},
		"only NaN":       {{"nan", []int{0}, []float64{math.NaN()}}},
		"uneven lengths": {{"uneven", []int{0, 1}, []float64{1}}},
	} {
		err := Write(path, "t", series)
		require.Error(t, err, name)
		if name != "uneven lengths" {
			assert.ErrorIs(t, err, ErrNothingToDraw)
		}
	}
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "old", string(raw))

	good := []Series{decaying("s", 1, 10, 0.1)}
	assert.ErrorIs(t, Write(filepath.Join(dir, "none", "x.png"), "t", good), os.ErrNotExist)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "folder.png"), 0o700))
	assert.Error(t, Write(filepath.Join(dir, "folder.png"), "t", good))
	require.NoError(t, Write(path, "t", good))
	requirePNG(t, path)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, entries, 2, "no temporary file may stay")
}

func TestSmoothingStartsAtTheFirstValueAndKeepsAConstant(t *testing.T) {
	assert.InDeltaSlice(t, []float64{3, 3, 3}, smooth([]float64{3, 3, 3}, 10), 1e-12)
	got := smooth([]float64{4, 0, 0, 0}, 2)
	assert.InDelta(t, 4, got[0], 1e-12)
	assert.InDelta(t, 4.0/3, got[1], 1e-12)
}

func TestTicksHaveSeveralRoundLabels(t *testing.T) {
	labels := func(ticker plot.Ticker, low, high float64) string {
		var out []string
		for _, tick := range ticker.Ticks(low, high) {
			if tick.Label != "" {
				out = append(out, tick.Label)
			}
		}
		return strings.Join(out, " ")
	}
	assert.Equal(t, "0.2 0.5 1 2", labels(decadeTicks{}, 0.15, 3))
	assert.Equal(t, "1e-05 0.0001 0.001 0.01 0.1 1", labels(decadeTicks{}, 1e-5, 3))
	assert.Equal(t, "1e-28 1e-21 1e-14 1e-07 1 1e+07 1e+14 1e+21 1e+28 1e+35", labels(decadeTicks{}, 1e-30, 1e38))
	assert.Equal(t, "0 50 100 150 200 250 300 350 400", labels(stepTicks{}, 0, 439))
	assert.Equal(t, "0 1 2 3", labels(stepTicks{}, 0, 3))
	assert.Equal(t, "4 5 6", labels(stepTicks{}, 4, 6))
	assert.Equal(t, "0 2000 4000 6000 8000 10000 12000", labels(stepTicks{}, 0, 13_000))
}

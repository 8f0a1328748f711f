package lossplot

import (
	"image/png"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// path returns one in LOSSPLOT_DIR, to look at the charts, or in the test's own folder.
func path(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("LOSSPLOT_DIR"); dir != "" {
		return filepath.Join(dir, filepath.Base(t.Name())+".png")
	}
	return filepath.Join(t.TempDir(), "out", "loss.png")
}

func falling(name string, count int, floor float64) Series {
	s := Series{Name: name, First: 1}
	for i := range count {
		s.Loss = append(s.Loss, floor+(2.3+math.Sin(float64(i)))*math.Exp(-float64(i)/float64(count)*9))
	}
	return s
}

func TestWrite(t *testing.T) {
	diverging := falling("lr 10", 100, 0.1)
	for i := 40; i < 100; i++ {
		diverging.Loss[i] = math.NaN()
	}
	for name, series := range map[string][]Series{
		"hooks":       {falling("allreduce", 440, 0.02), falling("fp16", 440, 0.02), falling("powersgd", 440, 0.08)},
		"short":       {{"noop_hook", 0, []float64{2.3, 2.1, 1.8, 1.7}}, {"one", 2, []float64{2}}},
		"diverging":   {diverging, falling("lr 0.1", 100, 0.1)},
		"one of none": {{"none", 0, nil}, {"flat", 0, []float64{1, 1}}},
		"zero":        {{"zero", 0, []float64{0, 0}}},
		"negative":    {{"negative", 0, []float64{1, -3}}},
	} {
		t.Run(name, func(t *testing.T) {
			path := path(t)
			require.NoError(t, Write(path, "digits, 4 ranks", series))
			f, err := os.Open(path)
			require.NoError(t, err)
			defer f.Close()
			_, err = png.Decode(f)
			assert.NoError(t, err)
		})
	}
	t.Run("what is not finite is counted", func(t *testing.T) {
		points, name := diverging.smoothed()
		assert.Len(t, points, 40)
		assert.Equal(t, "lr 10 (not finite 60x)", name)
	})
	t.Run("an average starts at the first value and keeps a constant", func(t *testing.T) {
		points, _ := Series{Loss: append([]float64{4}, make([]float64, 89)...)}.smoothed()
		assert.InDelta(t, 4, points[0].Y, 1e-12)
		assert.InDelta(t, 4*(2.0/3)/(1+2.0/3), points[1].Y, 1e-12)
	})
	t.Run("nothing to draw is an error", func(t *testing.T) {
		for _, series := range [][]Series{nil, {{"empty", 0, nil}}, {{"nan", 0, []float64{math.NaN()}}}} {
			assert.ErrorIs(t, Write(path(t), "t", series), ErrNothingToDraw)
		}
	})
	t.Run("a place that cannot be written to is an error", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		require.NoError(t, os.WriteFile(file, nil, 0o600))
		assert.Error(t, Write(filepath.Join(file, "loss.png"), "t", []Series{falling("s", 10, 0.1)}))
	})
}

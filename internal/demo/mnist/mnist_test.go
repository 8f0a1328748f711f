package mnist

import (
	"context"
	"errors"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gonum.org/v1/plot/plotutil"

	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/ddp/flat"
	"pyhook/internal/demo/checkpoint"
	"pyhook/internal/testutil"
)

func TestChart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "mnist.png")
	group := memgroup.New(2)
	f := flags{steps: 40, plot: path}
	r := &run{flags: f, group: group[0], size: 2}
	failed := make(chan error, 1)
	go func() {
		none, err := (&run{flags: f, group: group[1], rank: 1, size: 2}).newChart(context.Background())
		assert.Nil(t, none, "rank 0 draws")
		failed <- err
	}()
	c, err := r.newChart(t.Context())
	require.NoError(t, err)
	require.NoError(t, <-failed)
	asked := 0
	for step := 11; step <= 40; step++ { // of a run that goes on
		require.NoError(t, c.add(step, math.Exp(-float64(step)), split{3 * time.Millisecond, 2 * time.Millisecond}, func(images int) (float64, error) {
			asked++
			assert.Equal(t, 1000, images)
			return float64(50 + step), nil
		}))
	}
	assert.Equal(t, 15, asked, "every 2 steps")
	require.NoError(t, c.write())
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	drawn, err := png.Decode(file)
	require.NoError(t, err)
	third := func(i int) image.Rectangle {
		b := drawn.Bounds()
		return image.Rect(b.Min.X, b.Dy()*i/3, b.Max.X, b.Dy()*(i+1)/3)
	}
	assert.Greater(t, pixels(drawn, third(0), plotutil.Color(0)), 500, "the loss")
	assert.Greater(t, pixels(drawn, third(1), plotutil.Color(1)), 500, "the accuracy")
	reducing, computing := pixels(drawn, third(2), plotutil.Color(2)), pixels(drawn, third(2), plotutil.Color(3))
	assert.InDelta(t, 1.5, float64(computing)/float64(reducing), 0.1, "areas of 3 ms and 2 ms")
}

func TestChart_ofNoSteps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mnist.png")
	require.NoError(t, (&chart{path: path}).write())
	assert.NoFileExists(t, path)
}

// pixels counts those of a colour.
func pixels(drawn image.Image, in image.Rectangle, c color.Color) (n int) {
	want := color.RGBAModel.Convert(c)
	for y := in.Min.Y; y < in.Max.Y; y++ {
		for x := in.Min.X; x < in.Max.X; x++ {
			if color.RGBAModel.Convert(drawn.At(x, y)) == want {
				n++
			}
		}
	}
	return n
}

func TestFlags_check(t *testing.T) {
	right := flags{ranks: 1, batch: 32, steps: 900, every: 100, plot: "out/a.png"}
	require.NoError(t, right.check())
	for text, change := range map[string]func(f *flags){
		"--ranks must be 1 or more":        func(f *flags) { f.ranks = 0 },
		"--batch must be 1 or more":        func(f *flags) { f.batch = -1 },
		"--steps must be 1 or more":        func(f *flags) { f.steps = 0 },
		"--every must be 1 or more":        func(f *flags) { f.every = 0 },
		"--digest-every must be 0 or more": func(f *flags) { f.digest = -1 },
		"--plot a.jpg: it draws a .png":    func(f *flags) { f.plot = "a.jpg" },
	} {
		f := right
		change(&f)
		assert.EqualError(t, f.check(), text)
	}
}

// model is one parameter.
type model struct {
	*flat.Sync[float32]
	Model // Train and Predict, which nobody calls
	value []float32
}

func (m *model) Values() [][]float32              { return [][]float32{m.value} }
func (m *model) Digest(ctx context.Context) error { return m.Sync.Digest(ctx) }
func (m *model) Reducer() *ddp.Reducer            { return m.Sync.Reducer() }
func (m *model) Close()                           { m.Sync.Close() }

// TestRun_restore: where one rank does not find the checkpoint, as on hosts without a common folder, no
// rank trains.
func TestRun_restore(t *testing.T) {
	folder := t.TempDir()
	restored := func(files ...string) []error {
		return memgroup.Run(2, func(group *memgroup.Group) error {
			m := &model{value: []float32{1}}
			var err error
			m.Sync, err = flat.New(testutil.Soon(t), []flat.Param[float32]{{Name: "w", Value: &m.value, Grad: &[]float32{0}}}, ddp.Options{Group: group})
			if err != nil {
				return err
			}
			defer m.Close()
			path := filepath.Join(folder, files[group.Rank()])
			r := &run{flags: flags{batch: 1, checkpoint: path}, group: group, model: m, rank: group.Rank(), size: 2, keeper: checkpoint.Keeper{Path: path, Group: group}}
			if err := r.restore(testutil.Soon(t)); err != nil || r.first > 0 {
				return err
			}
			m.value[0] = 7
			return r.save(testutil.Soon(t), 5)
		})
	}
	require.NoError(t, errors.Join(restored("a", "a")...)) // saves one
	require.NoError(t, errors.Join(restored("a", "a")...))
	for _, err := range restored("a", "b") {
		assert.ErrorContains(t, err, "training would begin at step 5 on rank 0, and 0 on rank 1: every rank must find the one")
	}
	require.NoError(t, os.WriteFile(filepath.Join(folder, "c"), []byte("no checkpoint"), 0o600))
	for _, err := range restored("a", "c") {
		assert.ErrorContains(t, err, "reading "+filepath.Join(folder, "c"))
	}
}

func TestSameOnAll(t *testing.T) {
	for _, err := range memgroup.Run(2, func(group *memgroup.Group) error {
		f := flags{batch: 32 + group.Rank(), steps: 3}
		return sameOnAll(testutil.Soon(t), group, "the flags are", f.alike())
	}) {
		assert.ErrorContains(t, err, "the flags are --batch 32 --steps 3 ")
		assert.ErrorContains(t, err, " on rank 0, and --batch 33 --steps 3 ")
	}
}

package mlp

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/demo/digits"
)

// The demo's defaults.
var demoSizes = []int{digits.Features, 128, 64, digits.Classes}

const (
	demoBatch    = 64
	demoEpochs   = 20
	demoLR       = 0.1
	demoMomentum = 0.9
)

// randomBatch returns rows of standard normal x and labels below classes.
func randomBatch(seed uint64, rows, in, classes int) (x []float32, y []uint8) {
	rng := rand.New(rand.NewPCG(seed, 0))
	x = make([]float32, rows*in)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	y = make([]uint8, rows)
	for i := range y {
		y[i] = uint8(rng.IntN(classes))
	}
	return x, y
}

// newGrads returns gradient slices that hold NaN, each starting offset elements
// into its allocation.
func newGrads(n *Network, offset int) [][]float32 {
	var grads [][]float32
	for _, p := range n.Params() {
		g := make([]float32, offset+len(p.Value))
		for i := range g {
			g[i] = float32(math.NaN())
		}
		grads = append(grads, g[offset:])
	}
	return grads
}

// lossInFloat64 is the network's loss by plain loops in float64.
func lossInFloat64(sizes []int, values [][]float64, x []float32, y []uint8) float64 {
	var total float64
	for r, label := range y {
		act := make([]float64, sizes[0])
		for i := range act {
			act[i] = float64(x[r*sizes[0]+i])
		}
		for l := 1; l < len(sizes); l++ {
			next := make([]float64, sizes[l])
			for o := range next {
				next[o] = values[2*l-1][o]
				for i, a := range act {
					next[o] += a * values[2*l-2][o*sizes[l-1]+i]
				}
				if l < len(sizes)-1 {
					next[o] = max(next[o], 0)
				}
			}
			act = next
		}
		var sum float64
		for _, v := range act {
			sum += math.Exp(v)
		}
		total += math.Log(sum) - act[label]
	}
	return total / float64(len(y))
}

func TestParametersAreNamedAndShapedAsPyTorchsLinear(t *testing.T) {
	n := New([]int{64, 128, 64, 10}, 1)
	var got []string
	for _, p := range n.Params() {
		got = append(got, fmt.Sprint(p.Name, p.Shape, len(p.Value)))
	}
	assert.Equal(t, []string{
		"layer1.weight[128 64] 8192", "layer1.bias[128] 128",
		"layer2.weight[64 128] 8192", "layer2.bias[64] 64",
		"layer3.weight[10 64] 640", "layer3.bias[10] 10",
	}, got)
}

func TestInitialWeightsHaveHesVarianceAndDependOnTheSeed(t *testing.T) {
	n := New(demoSizes, 1)
	w := n.Params()[0].Value
	var sum float64
	for _, v := range w {
		sum += float64(v) * float64(v)
	}
	assert.InDelta(t, 2.0/64, sum/float64(len(w)), 0.001)
	assert.Equal(t, n.Checksum(), New(demoSizes, 1).Checksum())
	assert.NotEqual(t, n.Checksum(), New(demoSizes, 2).Checksum())
	// Integers and exact operations only: the same on every machine.
	assert.Equal(t, "a3240cf38bcc634a", fmt.Sprintf("%.8x", n.Checksum()))
}

// The reference is a second implementation in float64, so its central differences
// are good to about h*h + 1e-16/h = 1e-10, and what is left is float32's rounding in
// Backward: some 100 additions of terms below 1 at 6e-8 each, far below 1e-5. The step
// is small enough that no ReLU of this batch changes sides.
func TestGradientsAgreeWithFiniteDifferences(t *testing.T) {
	for _, sizes := range [][]int{{5, 3}, {5, 7, 3}, {8, 9, 6, 4}, {6, 70, 66, 2}} {
		t.Run(fmt.Sprint(sizes), func(t *testing.T) {
			n := New(sizes, 3)
			x, y := randomBatch(4, 11, sizes[0], sizes[len(sizes)-1])
			var values [][]float64
			for i, p := range n.Params() {
				v := make([]float64, len(p.Value))
				for j := range v {
					if i%2 == 1 {
						p.Value[j] = float32(j%3) * 0.1 // biases that matter
					}
					v[j] = float64(p.Value[j])
				}
				values = append(values, v)
			}
			grads := newGrads(n, 0)
			loss := n.Backward(x, y, grads, nil)
			assert.InDelta(t, lossInFloat64(sizes, values, x, y), loss, 1e-5)

			const h = 1e-5
			for i, v := range values {
				for j := 0; j < len(v); j += 1 + len(v)/40 {
					kept := v[j]
					v[j] = kept + h
					up := lossInFloat64(sizes, values, x, y)
					v[j] = kept - h
					down := lossInFloat64(sizes, values, x, y)
					v[j] = kept
					require.InDelta(t, (up-down)/(2*h), grads[i][j], 1e-5, "%s[%d]", n.Params()[i].Name, j)
				}
			}
		})
	}
}

func TestGradientsAreReadyLastLayerFirstAndFinal(t *testing.T) {
	n := New(demoSizes, 1)
	x, y := randomBatch(1, 32, 64, 10)
	grads := newGrads(n, 0)
	var order []int
	copies := make([][]float32, len(grads))
	n.Backward(x, y, grads, func(i int) {
		order = append(order, i)
		copies[i] = append([]float32(nil), grads[i]...)
	})
	assert.Equal(t, []int{5, 4, 3, 2, 1, 0}, order)
	assert.Equal(t, grads, copies) // NaN differs from itself, so all was overwritten
}

func TestTwoShardsAveragedAreTheFullBatch(t *testing.T) {
	n := New(demoSizes, 1)
	x, y := randomBatch(2, 64, 64, 10)
	full, a, b := newGrads(n, 0), newGrads(n, 0), newGrads(n, 0)
	loss := n.Backward(x, y, full, nil)
	lossA := n.Backward(x[:32*64], y[:32], a, nil)
	lossB := n.Backward(x[32*64:], y[32:], b, nil)

	assert.InDelta(t, loss, (lossA+lossB)/2, 1e-6)
	for i := range full {
		for j := range full[i] {
			require.InDelta(t, full[i][j], (a[i][j]+b[i][j])/2, 1e-6)
		}
	}
}

func TestAStepAllocatesNothing(t *testing.T) {
	n := New(demoSizes, 1)
	x, y := randomBatch(1, demoBatch, 64, 10)
	grads := newGrads(n, 0)
	params := n.Params()
	opt := SGD{LR: 0.01, Momentum: 0.9}
	ready := func(int) {}
	step := func() {
		n.Backward(x, y, grads, ready)
		opt.Step(params, grads)
		n.Evaluate(x, y)
	}
	assert.Zero(t, testing.AllocsPerRun(20, step))
}

func TestADivergedNetworkYieldsNaNAndNoError(t *testing.T) {
	n := New([]int{2, 3, 2}, 1)
	n.Params()[0].Value[0] = float32(math.NaN())
	loss := n.Backward([]float32{1, 1}, []uint8{0}, newGrads(n, 0), nil)
	assert.True(t, math.IsNaN(loss))
}

// Values of torch.optim.SGD(lr=0.1, momentum=0.9) by hand.
func TestSGD_Step(t *testing.T) {
	p := []Param{{"p", []int64{1}, []float32{1}}}
	opt := SGD{LR: 0.1, Momentum: 0.9}
	opt.Step(p, [][]float32{{0.5}})
	assert.InDelta(t, 0.5, opt.Velocity[0][0], 1e-6)
	assert.InDelta(t, 1-0.05, p[0].Value[0], 1e-6)
	opt.Step(p, [][]float32{{-1}})
	assert.InDelta(t, 0.9*0.5-1, opt.Velocity[0][0], 1e-6)

	plain := []Param{{"p", []int64{1}, []float32{1}}}
	noMomentum := SGD{LR: 0.1}
	noMomentum.Step(plain, [][]float32{{0.5}})
	assert.InDelta(t, 0.95, plain[0].Value[0], 1e-6)
	assert.Nil(t, noMomentum.Velocity)
}

func TestCheckpoint(t *testing.T) {
	sizes := []int{8, 16, 4}
	x, y := randomBatch(1, 16, 8, 4)
	steps := func(n *Network, opt *SGD, count int) {
		grads := newGrads(n, 0)
		for range count {
			n.Backward(x, y, grads, nil)
			opt.Step(n.Params(), grads)
		}
	}
	through, opt := New(sizes, 1), &SGD{LR: 0.1, Momentum: 0.9}
	steps(through, opt, 5)
	checkpoint := through.Checkpoint(opt, 5)
	checkpoint.Meta = []byte("meta")
	var file bytes.Buffer
	require.NoError(t, checkpoint.Save(&file))
	steps(through, opt, 5)

	t.Run("training goes on from it bit for bit", func(t *testing.T) {
		c, err := Load(bytes.NewReader(file.Bytes()))
		require.NoError(t, err)
		assert.Equal(t, 5, c.Step)
		assert.Equal(t, "meta", string(c.Meta))
		resumed, opt := New(sizes, 99), &SGD{LR: 0.1, Momentum: 0.9}
		params := resumed.Params() // taken before Restore, still good after
		require.NoError(t, c.Restore(resumed, opt))
		assert.Equal(t, c.Params[0], params[0].Value)
		steps(resumed, opt, 5)
		assert.Equal(t, through.Checksum(), resumed.Checksum())
	})
	t.Run("one of another network is refused whole", func(t *testing.T) {
		n := New([]int{3, 5, 2}, 1)
		before := n.Checksum()
		assert.ErrorContains(t, checkpoint.Restore(n, opt), "layer sizes [8 16 4], not [3 5 2]")
		assert.Equal(t, before, n.Checksum())
	})
	t.Run("one that is cut is an error, and one that is changed gives nothing else", func(t *testing.T) {
		good := file.Bytes()
		for i := range good {
			_, err := Load(bytes.NewReader(good[:i]))
			require.Error(t, err, "cut at %d", i)
		}
		want, err := Load(bytes.NewReader(good))
		require.NoError(t, err)
		for i := range good {
			bad := bytes.Clone(good)
			bad[i] ^= 0x10
			if got, err := Load(bytes.NewReader(bad)); err == nil { // a bit of gzip's that means nothing
				require.Equal(t, want, got, "byte %d changed", i)
			}
		}
	})
}

// train trains with the demo's defaults on one rank, with x and gradients offset
// elements off their natural alignment.
func train(t *testing.T, epochs, offset int, seed uint64) (n *Network, opt *SGD, test digits.Dataset) {
	t.Helper()
	all, err := digits.Load()
	require.NoError(t, err)
	train, test := all.Split(seed)
	n = New(demoSizes, seed)
	opt = &SGD{LR: demoLR, Momentum: demoMomentum}
	grads, params := newGrads(n, offset), n.Params()
	x := make([]float32, offset+demoBatch*digits.Features)[offset:]
	for epoch := range epochs {
		batches, err := train.Batches(seed, epoch, demoBatch, 0, 1)
		require.NoError(t, err)
		for _, batch := range batches {
			copy(x, batch.X)
			n.Backward(x, batch.Y, grads, nil)
			opt.Step(params, grads)
		}
	}
	return n, opt, test
}

func TestTrainingAloneReaches96PercentInSeconds(t *testing.T) {
	for seed := range uint64(3) {
		start := time.Now()
		n, _, test := train(t, demoEpochs, 0, seed)
		took := time.Since(start)
		accuracy, loss := n.Evaluate(test.X, test.Y)
		t.Logf("seed %d: accuracy %.4f, loss %.4f after %d epochs in %v", seed, accuracy, loss, demoEpochs, took)
		assert.GreaterOrEqual(t, accuracy, 0.96)
		assert.Less(t, loss, 0.2)
	}
}

func TestTrainingTwiceGivesTheSameBitsWhereverMemoryLies(t *testing.T) {
	n, _, _ := train(t, 2, 0, 5)
	want := n.Checksum()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for offset := range 4 {
		again, _, _ := train(t, 2, offset, 5)
		assert.Equal(t, want, again.Checksum(), "offset %d", offset)
	}
}

// 130 rows and 140 outputs are enough blocks for gonum's parallel path.
func TestParallelMultiplicationGivesTheSameBitsForAnyNumberOfProcs(t *testing.T) {
	sizes := []int{150, 140, 10}
	x, y := randomBatch(1, 130, sizes[0], 10)
	n := New(sizes, 1)
	want := newGrads(n, 0)
	n.Backward(x, y, want, nil)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for procs := 1; procs <= 8; procs++ {
		runtime.GOMAXPROCS(procs)
		got := newGrads(n, procs%4)
		n.Backward(x, y, got, nil)
		require.Equal(t, want, got)
	}
}

func BenchmarkStep(b *testing.B) {
	n := New(demoSizes, 1)
	x, y := randomBatch(1, demoBatch, 64, 10)
	grads, params := newGrads(n, 0), n.Params()
	opt := SGD{LR: 1e-6, Momentum: 0.9}
	b.ReportAllocs()
	for b.Loop() {
		n.Backward(x, y, grads, nil)
		opt.Step(params, grads)
	}
}

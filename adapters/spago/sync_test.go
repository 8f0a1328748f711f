package spagoddp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nlpodyssey/spago/ag"
	"github.com/nlpodyssey/spago/mat"
	"github.com/nlpodyssey/spago/mat/float"
	"github.com/nlpodyssey/spago/nn"
	"github.com/nlpodyssey/spago/nn/embedding"
	"github.com/nlpodyssey/spago/nn/linear"
	"github.com/nlpodyssey/spago/optimizers"
	"github.com/nlpodyssey/spago/optimizers/adam"
	"github.com/nlpodyssey/spago/optimizers/sgd"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	spagoddp "pyhook/adapters/spago"
	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// tiny makes every parameter a bucket of its own.
const tiny = 1e-9

// TestSync_alone: in a world of one, N steps are bitwise those of spago without the adapter.
func TestSync_alone(t *testing.T) {
	for name, strategy := range map[string]func() optimizers.OptimizationStrategy{
		"sgd":  func() optimizers.OptimizationStrategy { return sgd.New[float32](sgd.NewConfig(0.1, 0.9, true)) },
		"adam": func() optimizers.OptimizationStrategy { return adam.New(adam.NewDefaultConfig()) },
	} {
		t.Run(name+", float32", func(t *testing.T) { aloneAsStock[float32](t, strategy) })
	}
	t.Run("adam, float64", func(t *testing.T) {
		aloneAsStock[float64](t, func() optimizers.OptimizationStrategy { return adam.New(adam.NewDefaultConfig()) })
	})
}

func aloneAsStock[T float.DType](t *testing.T, strategy func() optimizers.OptimizationStrategy) {
	for _, batch := range []uint64{1, 3} {
		stock, wrapped := newNet[T](1), newNet[T](1)
		stock.once, wrapped.once = batch > 1, batch > 1
		stockStrategy, wrappedStrategy := strategy(), strategy()
		s, err := spagoddp.Wrap(testutil.Soon(t), wrapped, ddp.Options{Group: memgroup.New(1)[0]})
		require.NoError(t, err)
		defer s.Unwrap()
		for step := range uint64(30) {
			for i := range batch {
				require.NoError(t, ag.Backward(loss[T](stock, batch*step+i)))
			}
			require.NoError(t, optimize(stock, stockStrategy))

			require.NoError(t, s.NoSync(func() (err error) {
				for i := range batch - 1 {
					err = errors.Join(err, s.Backward(loss[T](wrapped, batch*step+i)), s.Wait(testutil.Soon(t)))
				}
				return err
			}))
			require.NoError(t, s.Backward(loss[T](wrapped, batch*step+batch-1)))
			require.NoError(t, s.Wait(testutil.Soon(t)))
			require.NoError(t, s.Optimize(wrappedStrategy))
			require.Equal(t, values[T](stock), values[T](wrapped), "batch %d, step %d", batch, step)
		}
		assert.NotEqual(t, values[T](newNet[T](1)), values[T](stock))
		s.Unwrap()
		require.Equal(t, values[T](stock), values[T](wrapped))
	}
}

// TestSync_mean: ranks stay bitwise alike, and are what the mean of their gradients, computed by
// hand, gives.
func TestSync_mean(t *testing.T) {
	for _, size := range []int{2, 4} {
		for _, layout := range []ddp.Layout{ddp.LayoutFixed, ddp.LayoutRebuilt} {
			t.Run(fmt.Sprintf("%d ranks, layout %d", size, layout), func(t *testing.T) { meanByHand(t, size, layout) })
		}
	}
}

func meanByHand(t *testing.T, size int, layout ddp.Layout) {
	const steps = 6
	byHand := newNet[float32](0)
	strategy := adam.New(adam.NewDefaultConfig())
	var expected [steps][][]float32
	for step := range steps {
		mean := make([][]float32, 6)
		for rank := range size {
			require.NoError(t, ag.Backward(loss[float32](byHand, sample(step, rank))))
			for i, g := range gradients[float32](byHand) {
				if rank == 0 {
					mean[i] = make([]float32, len(g))
				}
				for k := range g {
					mean[i][k] += g[k] / float32(size)
				}
			}
			nn.ZeroGrad(byHand)
		}
		i := 0
		nn.ForEachParam(byHand, func(p *nn.Param) {
			if p.RequiresGrad() {
				p.AccGrad(mat.NewDense[float32](mat.WithShape(p.Shape()...), mat.WithBacking(mean[i])))
				i++
			}
		})
		require.NoError(t, optimize(byHand, strategy))
		expected[step] = values[float32](byHand)
	}
	allWell(t, memgroup.Run(size, func(group *memgroup.Group) error {
		m := newNet[float32](uint64(group.Rank())) // rank 0's is byHand's
		s, err := spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: group, BucketCapMB: tiny, FirstBucketMB: tiny, Layout: layout})
		if err != nil {
			return err
		}
		defer s.Unwrap()
		if scale := mat.Data[float32](m.Scale.Value())[0]; scale != 0 {
			return fmt.Errorf("the parameter without a gradient is %v, and 0 on rank 0", scale)
		}
		strategy := adam.New(adam.NewDefaultConfig())
		for step := range steps {
			if err := s.Backward(loss[float32](m, sample(step, group.Rank()))); err != nil {
				return err
			}
			if err := s.Wait(testutil.Soon(t)); err != nil {
				return err
			}
			if err := s.Optimize(strategy); err != nil {
				return err
			}
			if got := values[float32](m); !assert.ObjectsAreEqual(expected[step], got) {
				return fmt.Errorf("rank %d, step %d: %v, and by hand %v", group.Rank(), step, got, expected[step])
			}
		}
		return s.Digest(testutil.Soon(t))
	}))
}

func sample(step, rank int) uint64 { return uint64(100 + 10*step + rank) }

// slowHook notes the calls, and lets one see whether Backward was over.
type slowHook struct {
	hooks.AllReduceCommHook
	calls  atomic.Int32
	failAt int32
	called chan int
}

var errHook = errors.New("the hook has had enough")

func (h *slowHook) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	if h.calls.Add(1) == h.failAt {
		return nil, errHook
	}
	if h.called != nil {
		h.called <- b.Index()
	}
	return h.AllReduceCommHook.RunHook(ctx, b)
}

// gate is a function whose gradient waits for a hook call.
type gate struct {
	x      mat.Tensor
	called <-chan int
	index  *int
}

func (g gate) Forward() (mat.Tensor, error) { return g.x.Value().(mat.Matrix).Clone(), nil }
func (g gate) Operands() []mat.Tensor       { return []mat.Tensor{g.x} }
func (g gate) Backward(gy mat.Tensor) error {
	*g.index = <-g.called
	g.x.AccGrad(gy)
	return nil
}

// TestSync_Backward_overlap: a hook is called while spago still goes back.
func TestSync_Backward_overlap(t *testing.T) {
	group := memgroup.New(1)[0]
	hook := &slowHook{AllReduceCommHook: hooks.AllReduceCommHook{Group: group}, called: make(chan int, 10)}
	m := newNet[float32](1)
	s, err := spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: group, Hook: hook, BucketCapMB: tiny, FirstBucketMB: tiny})
	require.NoError(t, err)
	defer s.Unwrap()
	index := -1
	x := ag.Tanh(m.In.Forward(mat.NewDense[float32](mat.WithShape(4)))[0])
	h := ag.NewOperator(gate{x, hook.called, &index}).Run() // In's gradients wait for the hook of Out's
	l := ag.ReduceSum(m.Out.Forward(ag.Tanh(m.Middle.Forward(h)[0]))[0])
	testutil.Within(t, func() { require.NoError(t, s.Backward(l)) })
	assert.Zero(t, index)
	require.NoError(t, s.Wait(testutil.Soon(t)))
	assert.EqualValues(t, 6, hook.calls.Load())
}

func TestSync_zeroCopies(t *testing.T) {
	m := newNet[float32](1)
	s, err := spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: memgroup.New(1)[0]})
	require.NoError(t, err)
	defer s.Unwrap()
	require.NoError(t, s.Backward(loss[float32](m, 1)))
	require.NoError(t, s.Wait(testutil.Soon(t)))
	for i, p := range []*nn.Param{m.In.W, m.In.B, m.Middle.W, m.Middle.B, m.Out.W, m.Out.B} {
		bucket, err := tensor.Slice[float32](s.Reducer().Gradient(i))
		require.NoError(t, err)
		assert.Same(t, &bucket[0], &mat.Data[float32](p.Grad())[0])
		hooked, err := tensor.Slice[float32](s.Parameters()[i].Data)
		require.NoError(t, err)
		assert.Same(t, &hooked[0], &mat.Data[float32](p.Value())[0])
	}
	assert.Equal(t, []string{"In.W", "In.B", "Middle.W", "Middle.B", "Out.W", "Out.B"}, names(s))
}

func names(s *spagoddp.Sync) (list []string) {
	for _, p := range s.Parameters() {
		list = append(list, p.Name)
	}
	return list
}

func TestSync_aHookFails(t *testing.T) {
	for rank, err := range memgroup.Run(2, func(group *memgroup.Group) error {
		m := newNet[float32](1)
		hook := &slowHook{AllReduceCommHook: hooks.AllReduceCommHook{Group: group}, failAt: 6*2 + 3}
		s, err := spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: group, Hook: hook, BucketCapMB: tiny, FirstBucketMB: tiny})
		if err != nil {
			return err
		}
		defer s.Unwrap()
		strategy := adam.New(adam.NewDefaultConfig())
		for step := range 3 {
			before := values[float32](m)
			err := s.Backward(loss[float32](m, sample(step, group.Rank())))
			if err != nil {
				return err
			}
			err = s.Wait(testutil.Soon(t))
			if optimizing := s.Optimize(strategy); optimizing != nil { // also of a trainer that ignores err
				return optimizing
			}
			if same := assert.ObjectsAreEqual(before, values[float32](m)); same != (err != nil) {
				return fmt.Errorf("step %d: values unchanged: %v, error %w", step, same, err)
			}
			if err != nil {
				return fmt.Errorf("step %d: %w", step, err)
			}
		}
		return nil
	}) {
		var step *ddp.StepError
		require.ErrorAs(t, err, &step, "rank %d", rank)
		assert.ErrorContains(t, err, errHook.Error()) // of one of the ranks, on both
		assert.ErrorContains(t, err, "step 2: ")
		assert.Equal(t, []string{"Middle.B"}, step.Names)
	}
}

func TestSync_unused(t *testing.T) {
	run := func(unused ddp.Unused) []error {
		return memgroup.Run(2, func(group *memgroup.Group) error {
			m := newNet[float64](1)
			s, err := spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: group, Unused: unused})
			if err != nil {
				return err
			}
			defer s.Unwrap()
			x := m.In.Forward(mat.NewDense[float64](mat.WithShape(4)))[0] // of zeros: In.W's gradient is 0
			if group.Rank() == 1 {
				x = m.Middle.Forward(x)[0]
			}
			if err := s.Backward(ag.ReduceSum(x)); err != nil {
				return err
			}
			if err := s.Wait(testutil.Soon(t)); err != nil {
				return err
			}
			if !m.Middle.B.HasGrad() || mat.Data[float64](m.Middle.B.Grad())[0] != 0.5 {
				return fmt.Errorf("Middle.B has %v", m.Middle.B.Grad())
			}
			if m.Out.B.HasGrad() || m.Out.W.HasGrad() {
				return errors.New("what no rank used has a gradient")
			}
			return nil
		})
	}
	t.Run("an error by name", func(t *testing.T) {
		for _, err := range run(ddp.UnusedIsError) {
			require.ErrorIs(t, err, ddp.ErrNotReady)
			assert.ErrorContains(t, err, "Out.W, Out.B")
		}
	})
	t.Run("found", func(t *testing.T) { allWell(t, run(ddp.UnusedFind)) })
}

func TestSync_notFinite(t *testing.T) {
	for _, err := range memgroup.Run(2, func(group *memgroup.Group) error {
		m := newNet[float32](1)
		s, err := spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: group, CheckFinite: true})
		if err != nil {
			return err
		}
		defer s.Unwrap()
		x := []float32{1, 2, 3, 4}
		if group.Rank() == 0 {
			x[3] = float32(math.NaN())
		}
		if err := s.Backward(ag.ReduceSum(m.forward(mat.NewDense[float32](mat.WithBacking(x))))); err != nil {
			return err
		}
		return s.Wait(testutil.Soon(t))
	}) {
		require.ErrorIs(t, err, c10d.ErrNonFinite)
	}
}

// keyed has its parameters in maps.
type keyed struct {
	nn.Module
	Layers map[string]*linear.Model
	Synced *sync.Map
	Array  [2]*nn.Param
}

func newKeyed(seed float32, keys ...string) *keyed {
	m := &keyed{Layers: map[string]*linear.Model{}, Synced: &sync.Map{}, Array: [2]*nn.Param{nn.NewParam(mat.Scalar(seed)), nil}}
	for i, key := range keys {
		layer := linear.New[float32](1, 1)
		mat.Data[float32](layer.W.Value())[0] = seed + float32(i)
		m.Layers[key] = layer
		m.Synced.Store(key, nn.NewParam(mat.Scalar(seed+float32(10*i))))
	}
	return m
}

// unordered traverses a map.
type unordered struct {
	nn.Module
	params map[string]*nn.Param
}

func (m *unordered) TraverseParams(f func(*nn.Param)) {
	for _, p := range m.params {
		f(p)
	}
}

func TestWrap(t *testing.T) {
	t.Run("parameters of maps are sorted by key", func(t *testing.T) {
		for range 10 {
			allWell(t, memgroup.Run(2, func(group *memgroup.Group) error {
				keys := []string{"c", "a", "b"}
				m := newKeyed(float32(group.Rank()), keys...)
				s, err := spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: group})
				if err != nil {
					return err
				}
				defer s.Unwrap()
				want := []string{"Layers[a].W", "Layers[a].B", "Layers[b].W", "Layers[b].B", "Layers[c].W", "Layers[c].B", "Synced[a]", "Synced[b]", "Synced[c]", "Array[0]"}
				if got := names(s); !assert.ObjectsAreEqual(want, got) {
					return fmt.Errorf("%v", got)
				}
				for i, key := range keys {
					if got := mat.Data[float32](m.Layers[key].W.Value())[0]; got != float32(i) {
						return fmt.Errorf("%s has %v and not %v", key, got, i)
					}
				}
				return nil
			}))
		}
	})
	for name, c := range map[string]struct {
		model func() nn.Model
		opts  ddp.Options
		say   string
	}{
		"an order that changes": {model: func() nn.Model {
			return &struct {
				nn.Module
				Odd *unordered
			}{Odd: &unordered{params: map[string]*nn.Param{"a": nn.NewParam(mat.Scalar(1.0)), "b": nn.NewParam(mat.Scalar(2.0))}}}
		}, say: "Odd (*spagoddp_test.unordered) gives its parameters in another order"},
		"no parameters as yet": {model: func() nn.Model { return &unordered{} }, say: "the model (*spagoddp_test.unordered) gives no parameters in TraverseParams"},
		"embeddings": {model: func() nn.Model {
			return &struct {
				nn.Module
				Words *embedding.Model
			}{Words: embedding.New[float32](3, 2)}
		}, say: "Words is an embedding.Model"},
		"nothing": {model: func() nn.Model { return &nn.Module{} }, say: "has no parameters"},
		"no gradients": {model: func() nn.Model {
			m := linear.New[float32](1, 1)
			m.W.SetRequiresGrad(false)
			return m.WithBiasGrad(false)
		}, say: "no parameter of *linear.Model requires a gradient"},
		"a gradient": {model: func() nn.Model {
			m := linear.New[float32](1, 1)
			m.B.AccGrad(mat.Scalar(float32(1)))
			return m
		}, say: "B: it has a gradient"},
		"a static graph": {model: func() nn.Model { return linear.New[float32](1, 1) }, opts: ddp.Options{StaticGraph: true}, say: "StaticGraph"},
	} {
		t.Run(name, func(t *testing.T) {
			errs := memgroup.Run(2, func(group *memgroup.Group) error {
				var m nn.Model = linear.New[float32](1, 1)
				opts := ddp.Options{}
				if group.Rank() == 1 {
					m, opts = c.model(), c.opts
				}
				opts.Group = group
				_, err := spagoddp.Wrap(testutil.Soon(t), m, opts)
				return err
			})
			assert.ErrorContains(t, errs[1], c.say)
			assert.ErrorContains(t, errs[0], "rank 1 failed: ")
		})
	}
	t.Run("a map of two, always", func(t *testing.T) {
		for range 600 { // else ranks would mix up parameters of one shape in silence
			m := &unordered{params: map[string]*nn.Param{"a": nn.NewParam(mat.Scalar(1.0)), "b": nn.NewParam(mat.Scalar(2.0))}}
			_, err := spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: memgroup.New(1)[0]})
			require.ErrorContains(t, err, "another order")
		}
	})
	t.Run("another model on one rank, by name on every rank", func(t *testing.T) {
		for _, err := range memgroup.Run(2, func(group *memgroup.Group) error {
			m := newNet[float32](1)
			if group.Rank() == 1 {
				m.Middle = linear.New[float32](6, 7)
			}
			before := m.In.W.Matrix
			_, err := spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: group})
			if m.In.W.Matrix != before {
				return errors.New("the model has changed")
			}
			return err
		}) {
			require.ErrorIs(t, err, ddp.ErrMismatch)
			assert.ErrorContains(t, err, "parameter 2 is Middle.W [6 6] float32 on rank 0 and Middle.W [7 6] float32 on rank 1")
		}
	})
	t.Run("twice", func(t *testing.T) {
		m, group := newNet[float32](1), memgroup.New(1)[0]
		s, err := spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: group})
		require.NoError(t, err)
		_, err = spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: group})
		require.ErrorContains(t, err, "In.W: it is wrapped already")
		s.Unwrap()
		s.Unwrap()
		s, err = spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: group})
		require.NoError(t, err)
		s.Unwrap()
	})
}

// twice is a function that gives its operand two gradients.
type twice struct{ x mat.Tensor }

func (f twice) Forward() (mat.Tensor, error) { return f.x.Value().(mat.Matrix).Sum(), nil }
func (f twice) Operands() []mat.Tensor       { return []mat.Tensor{f.x} }
func (f twice) Backward(gy mat.Tensor) error {
	f.x.AccGrad(f.x.Value().(mat.Matrix).OnesLike())
	f.x.AccGrad(f.x.Value().(mat.Matrix).OnesLike())
	return nil
}

func TestSync_Backward(t *testing.T) {
	wrap := func(t *testing.T) (*linear.Model, *spagoddp.Sync) {
		m := linear.New[float32](1, 1)
		s, err := spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: memgroup.New(1)[0]})
		require.NoError(t, err)
		t.Cleanup(s.Unwrap)
		return m, s
	}
	x := mat.Scalar(float32(1))
	t.Run("more gradients than operands", func(t *testing.T) {
		m, s := wrap(t)
		require.NoError(t, s.Backward(ag.NewOperator(twice{m.B}).Run(), ag.ReduceSum(m.W)))
		require.ErrorContains(t, s.Wait(testutil.Soon(t)), "B gets a gradient after it was complete")
		assert.False(t, m.B.HasGrad())
	})
	t.Run("more gradients than operands on one rank: no rank steps", func(t *testing.T) {
		for rank, err := range memgroup.Run(2, func(group *memgroup.Group) error {
			m := linear.New[float32](1, 1)
			s, err := spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: group})
			if err != nil {
				return err
			}
			defer s.Unwrap()
			losses := []mat.Tensor{ag.ReduceSum(m.B), ag.ReduceSum(m.W)}
			if group.Rank() == 1 {
				losses[0] = ag.NewOperator(twice{m.B}).Run()
			}
			if err := s.Backward(losses...); err != nil {
				return err
			}
			err = s.Wait(testutil.Soon(t))
			if m.B.HasGrad() {
				return fmt.Errorf("B has a gradient, Wait's error %w", err)
			}
			return err
		}) {
			assert.ErrorAs(t, err, new(*ddp.StepError), "rank %d", rank)
			assert.ErrorContains(t, err, "B gets a gradient after it was complete", "rank %d", rank)
			assert.NotContains(t, fmt.Sprint(err), "B has a gradient", "rank %d", rank)
		}
	})
	t.Run("again before Wait", func(t *testing.T) {
		m, s := wrap(t)
		require.NoError(t, s.Backward(m.Forward(x)...))
		require.ErrorContains(t, s.Backward(m.Forward(x)...), "W is with it): call Wait, or use NoSync")
		assert.False(t, m.B.HasGrad(), "that step has ended")
		for _, sum := range []float32{1, 2} { // not zeroed: as in spago
			require.NoError(t, s.Backward(m.Forward(x)...))
			require.NoError(t, s.Wait(testutil.Soon(t)))
			assert.Equal(t, []float32{sum}, mat.Data[float32](m.B.Grad()))
		}
	})
	t.Run("a replaced matrix", func(t *testing.T) {
		m, s := wrap(t)
		m.B.ReplaceValue(mat.Scalar(float32(3)))
		require.ErrorContains(t, s.Backward(m.Forward(x)...), "the matrix of B was replaced")
	})
	t.Run("a parameter of another model", func(t *testing.T) {
		m, s := wrap(t)
		other := linear.New[float32](1, 1)
		require.ErrorContains(t, s.Backward(ag.Add(m.Forward(x)[0], other.Forward(x)[0])), "that was not in the model in Wrap")
	})
	t.Run("a parameter of another model on one rank: all hear it", func(t *testing.T) {
		for rank, err := range memgroup.Run(3, func(group *memgroup.Group) error {
			m, other := linear.New[float32](1, 1), linear.New[float32](1, 1)
			s, err := spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: group})
			if err != nil {
				return err
			}
			defer s.Unwrap()
			loss := m.Forward(x)[0]
			if group.Rank() == 1 {
				loss = ag.Add(loss, other.Forward(x)[0])
			}
			failed := s.Backward(loss)
			if (failed != nil) != (group.Rank() == 1) {
				return fmt.Errorf("Backward: %w", failed)
			}
			if failed == nil {
				failed = s.Wait(testutil.Soon(t))
			}
			if m.B.HasGrad() {
				return errors.New("B has a gradient")
			}
			return failed
		}) {
			assert.ErrorAs(t, err, new(*ddp.StepError), "rank %d", rank)
			assert.ErrorContains(t, err, "that was not in the model in Wrap", "rank %d", rank)
		}
	})
	t.Run("Wait without it", func(t *testing.T) {
		_, s := wrap(t)
		require.ErrorIs(t, s.Wait(testutil.Soon(t)), ddp.ErrNotReady)
	})
	t.Run("a loss that is no scalar", func(t *testing.T) {
		m := linear.New[float32](1, 2)
		s, err := spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: memgroup.New(1)[0]})
		require.NoError(t, err)
		defer s.Unwrap()
		require.ErrorContains(t, s.Backward(m.Forward(x)...), "missing gradient")
		require.NoError(t, s.Backward(ag.ReduceSum(m.Forward(x)[0])))
		require.NoError(t, s.Wait(testutil.Soon(t)))
	})
	t.Run("after Unwrap", func(t *testing.T) {
		_, s := wrap(t)
		s.Unwrap()
		require.ErrorIs(t, s.Wait(testutil.Soon(t)), c10d.ErrClosed)
	})
}

func TestSync_Unwrap(t *testing.T) {
	m := newNet[float32](1)
	s, err := spagoddp.Wrap(testutil.Soon(t), m, ddp.Options{Group: memgroup.New(1)[0]})
	require.NoError(t, err)
	require.Error(t, nn.Dump(m, &bytes.Buffer{}), "a wrapped model cannot be read back")
	s.Unwrap()
	var file bytes.Buffer
	require.NoError(t, nn.Dump(m, &file))
	loaded, err := nn.Load[*net](&file)
	require.NoError(t, err)
	assert.Equal(t, values[float32](m), values[float32](loaded))
}

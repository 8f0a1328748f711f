package flat_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/ddp/flat"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// tiny makes every parameter a bucket of its own.
const tiny = 1e-9

func TestSync_Step(t *testing.T) {
	for _, size := range []int{1, 2, 4} {
		t.Run(fmt.Sprintf("float32, %d ranks", size), func(t *testing.T) { stepsAreTheMean[float32](t, size) })
		t.Run(fmt.Sprintf("float64, %d ranks", size), func(t *testing.T) { stepsAreTheMean[float64](t, size) })
	}
	t.Run("the bits of float16", func(t *testing.T) {
		var reduced [2][]uint16
		allWell(t, memgroup.Run(2, func(group *memgroup.Group) error {
			grad := []uint16{0x3c00, 0xc000} // 1, -2
			if group.Rank() == 1 {
				grad = []uint16{0x4200, 0x0000} // 3, 0
			}
			s, err := flat.New(testutil.Soon(t), []flat.Param[uint16]{{Name: "half", Grad: &grad}}, ddp.Options{Group: group})
			if err != nil {
				return err
			}
			defer s.Close()
			reduced[group.Rank()] = grad
			return s.Step(testutil.Soon(t))
		}))
		assert.Equal(t, []uint16{0x4000, 0xbc00}, reduced[0]) // 2, -1
		assert.Equal(t, reduced[0], reduced[1])
	})
	t.Run("bitwise what the Reducer gives", func(t *testing.T) {
		allWell(t, memgroup.Run(2, func(group *memgroup.Group) error { return asTheReducer(t, group) }))
	})
}

// stepsAreTheMean trains with momentum and compares values after each step with those of a model
// that got the mean, computed by hand from all ranks' gradients.
func stepsAreTheMean[T float32 | float64](t *testing.T, size int) {
	const steps = 4
	byHand := newModel[T]()
	eighths(byHand.values, 99)
	var expected [steps][][]T
	for step := range steps {
		clearAll(byHand.grads)
		for rank := range size {
			own := newModel[T]()
			eighths(own.grads, seed(step, rank))
			for i := range own.grads {
				for k, g := range own.grads[i] {
					byHand.grads[i][k] += g / T(size)
				}
			}
		}
		byHand.descend()
		for _, v := range byHand.values {
			expected[step] = append(expected[step], slices.Clone(v))
		}
	}
	errs := memgroup.Run(size, func(group *memgroup.Group) error {
		m := newModel[T]()
		if group.Rank() == 0 {
			eighths(m.values, 99) // the others get them
		}
		s, err := flat.New(testutil.Soon(t), m.params(), ddp.Options{Group: group, BucketCapMB: tiny, FirstBucketMB: tiny, Layout: ddp.LayoutRebuilt})
		if err != nil {
			return err
		}
		defer s.Close()
		for step := range steps {
			eighths(m.grads, seed(step, group.Rank()))
			if step%2 == 1 { // some one by one, of other goroutines
				var all sync.WaitGroup
				for _, i := range []int{3, 1} {
					all.Go(func() { assert.NoError(t, s.Ready(i)) })
				}
				all.Wait()
			}
			if err := s.Step(testutil.Soon(t)); err != nil {
				return err
			}
			m.descend()
			for i := range m.values {
				if !slices.Equal(expected[step][i], m.values[i]) {
					return fmt.Errorf("rank %d, step %d: %v, and by hand %v", group.Rank(), step, m.values[i], expected[step][i])
				}
			}
			if err := s.Digest(testutil.Soon(t)); err != nil {
				return err
			}
		}
		return nil
	})
	allWell(t, errs)
}

func seed(step, rank int) uint64 { return uint64(10*step + rank) }

func clearAll[T any](all [][]T) {
	for _, s := range all {
		clear(s)
	}
}

// descend is an optimiser.
func (m *model[T]) descend() {
	for i := range m.values {
		for k := range m.values[i] {
			m.values[i][k] -= m.grads[i][k] / 4
		}
	}
}

// asTheReducer compares with ReadyFrom, on numbers whose sums are rounded.
func asTheReducer(t *testing.T, group c10d.ProcessGroup) error {
	ctx := testutil.Soon(t)
	grad := make([]float32, 1000)
	random := rand.New(rand.NewPCG(uint64(group.Rank()), 3))
	for k := range grad {
		grad[k] = float32(random.NormFloat64())
	}
	own := slices.Clone(grad)
	s, err := flat.New(ctx, []flat.Param[float32]{{Name: "w", Grad: &grad}}, ddp.Options{Group: group, Hook: &hooks.FP16CompressCommHook{Group: group}})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Step(ctx); err != nil {
		return err
	}
	r, err := ddp.NewReducer(ctx, []*c10d.Parameter{{Name: "w", Shape: []int64{1000}, DType: tensor.Float32}},
		ddp.Options{Group: group, Hook: &hooks.FP16CompressCommHook{Group: group}})
	if err != nil {
		return err
	}
	defer r.Close()
	gradient, err := tensor.FromSlice(own)
	if err != nil {
		return err
	}
	defer gradient.Close()
	if err := r.ReadyFrom(0, gradient); err != nil {
		return err
	}
	if _, err := r.Wait(ctx); err != nil {
		return err
	}
	for k := range own {
		if math.Float32bits(own[k]) != math.Float32bits(grad[k]) {
			return fmt.Errorf("element %d: %v, and %v by the Reducer", k, grad[k], own[k])
		}
	}
	return nil
}

// alone makes a Sync of one rank.
func alone[T flat.Element](t *testing.T, params []flat.Param[T], opts ddp.Options) *flat.Sync[T] {
	t.Helper()
	opts.Group = memgroup.New(1)[0]
	s, err := flat.New(testutil.Soon(t), params, opts)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// doubler is a hook that doubles, and fails at the calls that it is told to.
type doubler struct {
	hooks.AllReduceCommHook
	calls  int
	failAt int
	seen   func(b *c10d.GradBucket)
}

var errHook = errors.New("the hook has had enough")

func (h *doubler) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	h.calls++
	g, err := tensor.Slice[float32](b.Buffer())
	if err != nil {
		return nil, err
	}
	for k := range g {
		g[k] *= 2
	}
	if h.calls == h.failAt {
		return nil, errHook
	}
	if h.seen != nil {
		h.seen(b)
	}
	return h.AllReduceCommHook.RunHook(ctx, b)
}

func TestSync_movedMemory(t *testing.T) {
	t.Run("gradients are those of where they are now", func(t *testing.T) {
		grad := []float32{1, 2}
		former := grad
		s := alone(t, []flat.Param[float32]{{Name: "w", Grad: &grad}}, ddp.Options{Hook: &doubler{AllReduceCommHook: hooks.AllReduceCommHook{Group: memgroup.New(1)[0]}}})
		require.NoError(t, s.Step(testutil.Soon(t)))
		require.Equal(t, []float32{2, 4}, grad)
		grad = []float32{10, 20}
		require.NoError(t, s.Step(testutil.Soon(t)))
		assert.Equal(t, []float32{20, 40}, grad)
		assert.Equal(t, []float32{2, 4}, former)
	})
	t.Run("a gradient of another length is refused by name", func(t *testing.T) {
		grad := []float32{1, 2}
		s := alone(t, []flat.Param[float32]{{Name: "w", Grad: &grad}}, ddp.Options{})
		grad = append(grad, 3)
		err := s.Step(testutil.Soon(t))
		require.ErrorContains(t, err, "w: the gradient has 3 elements now, and its shape is [2]")
		assert.Equal(t, []float32{1, 2, 3}, grad)
		grad = grad[:2]
		require.NoError(t, s.Step(testutil.Soon(t)))
	})
	t.Run("values that moved are refused, as hooks would see former ones", func(t *testing.T) {
		value, grad := []float32{5, 6}, []float32{1, 2}
		var seen []float32
		hook := &doubler{AllReduceCommHook: hooks.AllReduceCommHook{Group: memgroup.New(1)[0]}, seen: func(b *c10d.GradBucket) {
			data, err := tensor.Slice[float32](b.Parameters()[0].Data)
			require.NoError(t, err)
			seen = slices.Clone(data)
		}}
		s := alone(t, []flat.Param[float32]{{Name: "w", Value: &value, Grad: &grad}}, ddp.Options{Hook: hook})
		value[0] = 7
		require.NoError(t, s.Step(testutil.Soon(t)))
		assert.Equal(t, []float32{7, 6}, seen)
		stay := value
		value = []float32{8, 9}
		err := s.Step(testutil.Soon(t))
		require.ErrorIs(t, err, flat.ErrMoved)
		require.ErrorContains(t, err, "w: ")
		require.ErrorIs(t, s.Digest(testutil.Soon(t)), flat.ErrMoved)
		assert.Equal(t, []float32{2, 4}, grad)
		assert.Equal(t, 1, hook.calls)
		value = stay
		require.NoError(t, s.Step(testutil.Soon(t)))
	})
}

func TestSync_Step_wrongOnOneRank(t *testing.T) {
	for name, retried := range map[string]bool{"Step": false, "Step in Retry": true} {
		t.Run(name, func(t *testing.T) {
			for rank, err := range memgroup.Run(2, func(group *memgroup.Group) error {
				grad, other := []float32{1, 2}, []float32{3}
				s, err := flat.New(testutil.Soon(t), []flat.Param[float32]{{Name: "v", Grad: &other}, {Name: "w", Grad: &grad}}, ddp.Options{Group: group, BucketCapMB: tiny})
				if err != nil {
					return err
				}
				defer s.Close()
				if group.Rank() == 1 {
					other = append(other, 4)
				}
				if !retried {
					return s.Step(testutil.Soon(t))
				}
				return ddp.Retry(testutil.Soon(t), s.Reducer(), func() error { return s.Step(testutil.Soon(t)) })
			}) {
				assert.ErrorAs(t, err, new(*ddp.StepError), "rank %d", rank)
				assert.ErrorContains(t, err, "flat, rank 1: v: the gradient has 2 elements now, and its shape is [1]", "rank %d", rank)
				if retried {
					assert.ErrorContains(t, err, "gave up after 3 tries", "rank %d", rank)
				}
			}
		})
	}
}

// The slices may be other ones in each step: of two that share memory one result would be lost.
func TestSync_Step_gradientsThatShareMemory(t *testing.T) {
	whole := []float32{1, 2, 3, 4}
	v, w := whole[:2], whole[1:3]
	s := alone(t, []flat.Param[float32]{{Name: "v", Grad: &v}, {Name: "w", Grad: &w}}, ddp.Options{
		Hook: &doubler{AllReduceCommHook: hooks.AllReduceCommHook{Group: memgroup.New(1)[0]}, seen: func(*c10d.GradBucket) {}},
	})
	err := s.Step(testutil.Soon(t))
	require.ErrorIs(t, err, ddp.ErrOverlap)
	require.ErrorContains(t, err, "v, w")
	assert.Equal(t, []float32{1, 2, 3, 4}, whole)
	w = whole[2:]
	require.NoError(t, s.Step(testutil.Soon(t)))
	assert.Equal(t, []float32{2, 4, 6, 8}, whole)
}

func TestSync_aFailedStepLeavesTheGradients(t *testing.T) {
	var after [2][][]float32
	errs := memgroup.Run(2, func(group *memgroup.Group) error {
		m := newModel[float32]()
		hook := &doubler{AllReduceCommHook: hooks.AllReduceCommHook{Group: group}, failAt: 4*2 + 3}
		s, err := flat.New(testutil.Soon(t), m.params(), ddp.Options{Group: group, Hook: hook, BucketCapMB: tiny, FirstBucketMB: tiny})
		if err != nil {
			return err
		}
		defer s.Close()
		for step := range 3 {
			eighths(m.grads, seed(step, group.Rank()))
			if err := s.Step(testutil.Soon(t)); err != nil {
				after[group.Rank()] = m.grads
				return fmt.Errorf("step %d: %w", step, err)
			}
		}
		return nil
	})
	for rank, err := range errs {
		var step *ddp.StepError
		require.ErrorAs(t, err, &step)
		assert.ErrorContains(t, err, errHook.Error()) // of one of the ranks, on both
		assert.ErrorContains(t, err, "step 2: ")
		assert.Equal(t, []string{"b"}, step.Names)
		m := newModel[float32]()
		eighths(m.grads, seed(2, rank))
		assert.Equal(t, m.grads, after[rank])
	}
}

func TestNew(t *testing.T) {
	x, y := []float32{1, 2}, []float32{3, 4}
	for _, c := range []struct {
		params []flat.Param[float32]
		opts   ddp.Options
		say    string
	}{
		{nil, ddp.Options{}, "no parameters"},
		{[]flat.Param[float32]{{Grad: &x}}, ddp.Options{}, "parameter 0 has no name"},
		{[]flat.Param[float32]{{Name: "w"}}, ddp.Options{}, "w has no Grad"},
		{[]flat.Param[float32]{{Name: "w", Grad: &x}, {Name: "w", Grad: &y}}, ddp.Options{}, "two parameters are called w"},
		{[]flat.Param[float32]{{Name: "w", Grad: &x}, {Name: "v", Grad: &x}}, ddp.Options{}, "w and v have one Grad"},
		{[]flat.Param[float32]{{Name: "w", Grad: &x, Value: &y}, {Name: "v", Grad: &y}}, ddp.Options{}, "one of w and v has a Value and one has none"},
		{[]flat.Param[float32]{{Name: "w", Grad: &x, Shape: []int64{3}}}, ddp.Options{}, "w: its gradient has 2 elements and its shape is [3]"},
		{[]flat.Param[float32]{{Name: "w", Grad: &x, Shape: []int64{-1}}}, ddp.Options{}, "w: "},
		{[]flat.Param[float32]{{Name: "w", Grad: &x, Shape: []int64{2}, Value: &[]float32{1}}}, ddp.Options{}, "w: its value has 1 elements and its shape is [2]"},
		{[]flat.Param[float32]{{Name: "w", Grad: new([]float32), Value: &x}}, ddp.Options{}, "w: its gradient has 0 elements and its shape is [2]"},
		{[]flat.Param[float32]{{Name: "w", Grad: &x}}, ddp.Options{StaticGraph: true}, "StaticGraph"},
	} {
		t.Run(c.say, func(t *testing.T) {
			errs := memgroup.Run(2, func(group *memgroup.Group) error {
				params := []flat.Param[float32]{{Name: "w", Grad: &[]float32{1, 2}}}
				opts := ddp.Options{}
				if group.Rank() == 1 {
					params, opts = c.params, c.opts
				}
				opts.Group = group
				_, err := flat.New(testutil.Soon(t), params, opts)
				return err
			})
			assert.ErrorContains(t, errs[1], c.say)
			assert.ErrorContains(t, errs[0], "rank 1 failed: "+errs[1].Error())
		})
	}
	t.Run("a scalar with a value", func(t *testing.T) {
		var values [2][]float32
		allWell(t, memgroup.Run(2, func(group *memgroup.Group) error {
			value, grad := []float32{float32(3 + group.Rank())}, []float32{float32(group.Rank())}
			s, err := flat.New(testutil.Soon(t), []flat.Param[float32]{{Name: "w", Shape: []int64{}, Value: &value, Grad: &grad}}, ddp.Options{Group: group, DigestEvery: 1})
			if err != nil {
				return err
			}
			defer s.Close()
			err = s.Step(testutil.Soon(t))
			values[group.Rank()] = []float32{value[0], grad[0]}
			return err
		}))
		assert.Equal(t, [2][]float32{{3, 0.5}, {3, 0.5}}, values)
	})
	t.Run("no group", func(t *testing.T) {
		_, err := flat.New(testutil.Soon(t), []flat.Param[float32]{{Name: "w", Grad: &x}}, ddp.Options{})
		assert.ErrorContains(t, err, "the process group (Options.Group) is nil")
	})
	t.Run("another model on one rank, by name on every rank", func(t *testing.T) {
		for rank, err := range memgroup.Run(4, func(group *memgroup.Group) error {
			m := newModel[float64]()
			params := m.params()
			if group.Rank() == 2 {
				params[1].Shape = []int64{7, 1}
			}
			_, err := flat.New(testutil.Soon(t), params, ddp.Options{Group: group})
			return err
		}) {
			require.ErrorIs(t, err, ddp.ErrMismatch, "rank %d", rank)
			assert.ErrorContains(t, err, "parameter 1 is b [7] float64 on rank 0 and b [7 1] float64 on rank 2")
		}
	})
	t.Run("values on one rank only", func(t *testing.T) {
		for _, err := range memgroup.Run(2, func(group *memgroup.Group) error {
			p := flat.Param[float32]{Name: "w", Grad: &[]float32{1}}
			if group.Rank() == 1 {
				p.Value = &[]float32{1}
			}
			_, err := flat.New(testutil.Soon(t), []flat.Param[float32]{p}, ddp.Options{Group: group})
			return err
		}) {
			assert.ErrorContains(t, err, "of the ranks 0 and 1 one gives values (Param.Value) and one does not")
		}
	})
}

func TestSync_Ready(t *testing.T) {
	x := []float32{1}
	s := alone(t, []flat.Param[float32]{{Name: "w", Grad: &x}}, ddp.Options{})
	require.ErrorContains(t, s.Ready(1), "no parameter 1")
	require.ErrorContains(t, s.Ready(-1), "no parameter -1")
	require.NoError(t, s.Ready(0))
	err := s.Ready(0)
	require.ErrorIs(t, err, ddp.ErrReadyTwice)
	assert.ErrorContains(t, err, "w")
	require.NoError(t, s.Step(testutil.Soon(t)))
	s.Close()
	require.ErrorIs(t, s.Ready(0), c10d.ErrClosed)
	require.ErrorIs(t, s.Step(testutil.Soon(t)), c10d.ErrClosed)
}

func TestSync_NoSync(t *testing.T) {
	allWell(t, memgroup.Run(2, func(group *memgroup.Group) error {
		grad := []float32{0}
		s, err := flat.New(testutil.Soon(t), []flat.Param[float32]{{Name: "w", Grad: &grad}}, ddp.Options{Group: group, Unused: ddp.UnusedFind})
		if err != nil {
			return err
		}
		defer s.Close()
		if err := s.NoSync(func() error {
			grad[0] += float32(1 + group.Rank())
			return errors.Join(s.Ready(0), s.Step(testutil.Soon(t)))
		}); err != nil {
			return err
		}
		if grad[0] != float32(1+group.Rank()) {
			return fmt.Errorf("reduced in NoSync: %v", grad)
		}
		grad[0] += 4
		// Not marked in this step, but in NoSync: it is used.
		if err := s.Step(testutil.Soon(t)); err != nil || grad[0] != 5.5 {
			return fmt.Errorf("%v, %w", grad, err)
		}
		return nil
	}))
}

func TestSync_unused(t *testing.T) {
	allWell(t, memgroup.Run(2, func(group *memgroup.Group) error {
		used, one, none := []float32{2}, []float32{8}, []float32{16}
		s, err := flat.New(testutil.Soon(t), []flat.Param[float32]{{Name: "used", Grad: &used}, {Name: "one", Grad: &one}, {Name: "none", Grad: &none}},
			ddp.Options{Group: group, Unused: ddp.UnusedFind})
		if err != nil {
			return err
		}
		defer s.Close()
		err = s.Ready(0)
		if group.Rank() == 1 {
			err = errors.Join(err, s.Ready(1))
		}
		if err := errors.Join(err, s.Step(testutil.Soon(t))); err != nil {
			return err
		}
		if used[0] != 2 || one[0] != 4 || none[0] != 16 {
			return fmt.Errorf("rank %d: used on all %v, on one %v, on none %v", group.Rank(), used, one, none)
		}
		return nil
	}))
}

func TestSync_Join(t *testing.T) {
	allWell(t, memgroup.Run(3, func(group *memgroup.Group) error {
		value, grad := []float64{10}, []float64{0}
		s, err := flat.New(testutil.Soon(t), []flat.Param[float64]{{Name: "w", Value: &value, Grad: &grad}}, ddp.Options{Group: group, Join: true})
		if err != nil {
			return err
		}
		defer s.Close()
		for range group.Rank() { // rank 0 has no data
			grad[0] = 3
			if err := s.Step(testutil.Soon(t)); err != nil {
				return err
			}
			value[0] -= grad[0]
		}
		if err := s.Join(testutil.Soon(t)); err != nil || value[0] != 10-2-1 {
			return fmt.Errorf("rank %d: %v, %w", group.Rank(), value, err)
		}
		return nil
	}))
}

func TestSync_Digest(t *testing.T) {
	t.Run("names the first parameter that differs, and the ranks", func(t *testing.T) {
		for rank, err := range memgroup.Run(4, func(group *memgroup.Group) error {
			m := newModel[float32]()
			s, err := flat.New(testutil.Soon(t), m.params(), ddp.Options{Group: group})
			if err != nil {
				return err
			}
			defer s.Close()
			if err := s.Digest(testutil.Soon(t)); err != nil {
				return fmt.Errorf("alike: %w", err)
			}
			if group.Rank() == 2 {
				m.values[2][5], m.values[3][0] = float32(math.Copysign(0, -1)), 1 // -0: equal, and other bits
			}
			return s.Digest(testutil.Soon(t))
		}) {
			var p *ddp.ParameterError
			require.ErrorAs(t, err, &p)
			require.ErrorIs(t, err, ddp.ErrValues)
			assert.Equal(t, rank, p.Rank)
			assert.Equal(t, []string{"c"}, p.Names)
			assert.ErrorContains(t, err, "parameter 2, the first of them, has one value on ranks 0, 1 and 3, another on rank 2")
		}
	})
	t.Run("without values", func(t *testing.T) {
		s := alone(t, []flat.Param[float32]{{Name: "w", Grad: &[]float32{1}}}, ddp.Options{})
		assert.ErrorContains(t, s.Digest(testutil.Soon(t)), "Param.Value")
	})
}

func TestSync_notFinite(t *testing.T) {
	for _, err := range memgroup.Run(2, func(group *memgroup.Group) error {
		m := newModel[float64]()
		s, err := flat.New(testutil.Soon(t), m.params(), ddp.Options{Group: group, CheckFinite: true})
		if err != nil {
			return err
		}
		defer s.Close()
		if group.Rank() == 1 {
			m.grads[1][2] = math.NaN()
		}
		if err := s.Step(testutil.Soon(t)); !errors.Is(err, c10d.ErrNonFinite) {
			return fmt.Errorf("%w, and not of a NaN", err)
		}
		m.grads[1][2] = 1 // all ranks have refused the step, so the next one may begin
		return s.Step(testutil.Soon(t))
	}) {
		require.NoError(t, err)
	}
}

// TestSync_Step_allocations: a step allocates what one of the Reducer with gradients in its own
// buckets does, and nothing of flat's.
func TestSync_Step_allocations(t *testing.T) {
	if !testutil.FullSpeed {
		t.Skip("this build allocates more")
	}
	ctx := context.Background()
	m := newModel[float32]()
	s := alone(t, m.params(), ddp.Options{})
	list := make([]*c10d.Parameter, len(shapes))
	for i := range list {
		list[i] = &c10d.Parameter{Name: m.params()[i].Name, Shape: shapes[i], DType: tensor.Float32}
	}
	r, err := ddp.NewReducer(ctx, list, ddp.Options{Group: memgroup.New(1)[0]})
	require.NoError(t, err)
	defer r.Close()
	var failed error
	bare := testing.AllocsPerRun(500, func() {
		for i := range list {
			if err := r.Ready(i); err != nil {
				failed = err
			}
		}
		if _, err := r.Wait(ctx); err != nil {
			failed = err
		}
	})
	got := testing.AllocsPerRun(500, func() {
		if err := s.Step(ctx); err != nil {
			failed = err
		}
	})
	require.NoError(t, failed)
	t.Logf("%v allocations a step; %v of the Reducer's own", got, bare)
	assert.LessOrEqual(t, got, bare+1) // a goroutine may be counted in the other; a parameter would cost 4
	assert.Positive(t, bare)
}

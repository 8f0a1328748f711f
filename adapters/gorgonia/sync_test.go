package gorgoniaddp_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	gorgoniaddp "pyhook/adapters/gorgonia"
	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/ddp/flat"
	"pyhook/internal/testutil"
)

// tiny makes every parameter a bucket of its own.
const tiny = 1e-9

func solvers() map[string]func() gorgonia.Solver {
	return map[string]func() gorgonia.Solver{
		"vanilla": func() gorgonia.Solver { return gorgonia.NewVanillaSolver(gorgonia.WithLearnRate(0.1)) },
		"adam":    func() gorgonia.Solver { return gorgonia.NewAdamSolver(gorgonia.WithLearnRate(0.01)) },
	}
}

// TestSync_alone: in a world of one, N steps are bitwise those of Gorgonia without the adapter.
func TestSync_alone(t *testing.T) {
	for name, solver := range solvers() {
		for _, dual := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, float32, dual %v", name, dual), func(t *testing.T) { aloneAsStock[float32](t, solver, dual) })
			t.Run(fmt.Sprintf("%s, float64, dual %v", name, dual), func(t *testing.T) { aloneAsStock[float64](t, solver, dual) })
		}
	}
}

func aloneAsStock[T element](t *testing.T, make func() gorgonia.Solver, dual bool) {
	stock, err := newNet[T](1, dual)
	require.NoError(t, err)
	wrapped, err := newNet[T](1, dual)
	require.NoError(t, err)
	s, err := gorgoniaddp.New(testutil.Soon(t), wrapped.learnables, ddp.Options{Group: memgroup.New(1)[0]})
	require.NoError(t, err)
	defer s.Close()
	stockSolver, solver := make(), s.Solver(testutil.Soon(t), make())
	start := stock.values()
	for step := range 30 {
		require.NoError(t, stock.run(sample(step, 0)))
		require.NoError(t, stockSolver.Step(gorgonia.NodesToValueGrads(stock.learnables)))
		require.NoError(t, wrapped.run(sample(step, 0)))
		require.NoError(t, solver.Step(gorgonia.NodesToValueGrads(wrapped.learnables)))
		require.Equal(t, stock.values(), wrapped.values(), "step %d", step)
	}
	assert.NotEqual(t, start, stock.values())
}

// TestSync_mean: ranks stay bitwise alike, and are what the mean of their gradients, computed by
// hand, gives.
func TestSync_mean(t *testing.T) {
	for _, size := range []int{2, 4} {
		for _, layout := range []ddp.Layout{ddp.LayoutFixed, ddp.LayoutRebuilt} {
			t.Run(fmt.Sprintf("float32, %d ranks, layout %d", size, layout), func(t *testing.T) { meanByHand[float32](t, size, layout) })
		}
		t.Run(fmt.Sprintf("float64, %d ranks", size), func(t *testing.T) { meanByHand[float64](t, size, ddp.LayoutFixed) })
	}
}

func meanByHand[T element](t *testing.T, size int, layout ddp.Layout) {
	const steps = 5
	byHand, err := newNet[T](0, false)
	require.NoError(t, err)
	adam := gorgonia.NewAdamSolver(gorgonia.WithLearnRate(0.01))
	var expected [steps][][]T
	for step := range steps {
		var mean [][]T
		for rank := range size {
			require.NoError(t, byHand.run(sample(step, rank)))
			grads, err := byHand.gradients()
			require.NoError(t, err)
			for i, g := range grads {
				if rank == 0 {
					mean = append(mean, make([]T, len(g)))
				}
				for k := range g {
					mean[i][k] += g[k] / T(size)
				}
			}
		}
		grads, err := byHand.gradients()
		require.NoError(t, err)
		for i, g := range grads {
			copy(g, mean[i])
		}
		require.NoError(t, adam.Step(gorgonia.NodesToValueGrads(byHand.learnables)))
		expected[step] = byHand.values()
	}
	allWell(t, memgroup.Run(size, func(group *memgroup.Group) error {
		n, err := newNet[T](uint64(group.Rank()), true) // rank 0's is byHand's
		if err != nil {
			return err
		}
		s, err := gorgoniaddp.New(testutil.Soon(t), n.learnables, ddp.Options{Group: group, BucketCapMB: tiny, FirstBucketMB: tiny, Layout: layout})
		if err != nil {
			return err
		}
		defer s.Close()
		solver := s.Solver(testutil.Soon(t), gorgonia.NewAdamSolver(gorgonia.WithLearnRate(0.01)))
		for step := range steps {
			if err := n.run(sample(step, group.Rank())); err != nil {
				return err
			}
			if err := solver.Step(gorgonia.NodesToValueGrads(n.learnables)); err != nil {
				return err
			}
			if got := n.values(); !assert.ObjectsAreEqual(expected[step], got) {
				return fmt.Errorf("rank %d, step %d: %v, and by hand %v", group.Rank(), step, got, expected[step])
			}
		}
		return s.Digest(testutil.Soon(t))
	}))
}

func TestSync_NoSync(t *testing.T) {
	t.Run("gradients add up", func(t *testing.T) {
		stock, err := newNet[float32](1, true)
		require.NoError(t, err)
		n, err := newNet[float32](1, true)
		require.NoError(t, err)
		s, err := gorgoniaddp.New(testutil.Soon(t), n.learnables, ddp.Options{Group: memgroup.New(1)[0]})
		require.NoError(t, err)
		defer s.Close()
		stockSolver, solver := solvers()["adam"](), s.Solver(testutil.Soon(t), solvers()["adam"]())
		for step := range 5 {
			require.NoError(t, stock.run(sample(step, 0)))
			require.NoError(t, stock.run(sample(step, 1)))
			require.NoError(t, stockSolver.Step(gorgonia.NodesToValueGrads(stock.learnables)))
			require.NoError(t, s.NoSync(func() error {
				return errors.Join(n.run(sample(step, 0)), solver.Step(gorgonia.NodesToValueGrads(n.learnables)))
			}))
			require.NoError(t, n.run(sample(step, 1)))
			require.NoError(t, solver.Step(gorgonia.NodesToValueGrads(n.learnables)))
			require.Equal(t, stock.values(), n.values())
		}
	})
	t.Run("a machine that does not add them up", func(t *testing.T) {
		n, err := newNet[float32](1, false)
		require.NoError(t, err)
		s, err := gorgoniaddp.New(testutil.Soon(t), n.learnables, ddp.Options{Group: memgroup.New(1)[0]})
		require.NoError(t, err)
		defer s.Close()
		err = s.NoSync(func() error { return errors.Join(n.run(1), s.Reduce(testutil.Soon(t))) })
		assert.ErrorContains(t, err, "does not add up the gradients of w1: make it with gorgonia.BindDualValues")
	})
}

// failing is a hook that fails at one call.
type failing struct {
	hooks.AllReduceCommHook
	calls, failAt int
}

var errHook = errors.New("the hook has had enough")

func (h *failing) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	if h.calls++; h.calls == h.failAt {
		return nil, errHook
	}
	return h.AllReduceCommHook.RunHook(ctx, b)
}

func TestSync_aHookFails(t *testing.T) {
	t.Run("on 2 ranks no rank steps", func(t *testing.T) {
		for rank, err := range memgroup.Run(2, func(group *memgroup.Group) error { return untilItFails(t, group) }) {
			var step *ddp.StepError
			require.ErrorAs(t, err, &step, "rank %d", rank)
			assert.ErrorContains(t, err, errHook.Error()) // of one of the ranks, on both
			assert.ErrorContains(t, err, "step 2: ")
			assert.Equal(t, []string{"b"}, step.Names)
		}
	})
	t.Run("alone the next step is as if that one had not been", func(t *testing.T) {
		group := memgroup.New(1)[0]
		stock, err := newNet[float32](1, true)
		require.NoError(t, err)
		n, err := newNet[float32](1, true)
		require.NoError(t, err)
		s, err := gorgoniaddp.New(testutil.Soon(t), n.learnables, ddp.Options{Group: group, Hook: &failing{AllReduceCommHook: hooks.AllReduceCommHook{Group: group}, failAt: 2}})
		require.NoError(t, err)
		defer s.Close()
		stockSolver, solver := solvers()["adam"](), s.Solver(testutil.Soon(t), solvers()["adam"]())
		for step := range 3 {
			require.NoError(t, n.run(sample(step, 0)))
			err := solver.Step(gorgonia.NodesToValueGrads(n.learnables))
			if step == 1 {
				require.ErrorIs(t, err, errHook)
				continue
			}
			require.NoError(t, err)
			require.NoError(t, stock.run(sample(step, 0)))
			require.NoError(t, stockSolver.Step(gorgonia.NodesToValueGrads(stock.learnables)))
		}
		assert.Equal(t, stock.values(), n.values())
	})
}

func untilItFails(t *testing.T, group *memgroup.Group) error {
	n, err := newNet[float32](1, true)
	if err != nil {
		return err
	}
	hook := &failing{AllReduceCommHook: hooks.AllReduceCommHook{Group: group}, failAt: 4*2 + 2}
	s, err := gorgoniaddp.New(testutil.Soon(t), n.learnables, ddp.Options{Group: group, Hook: hook, BucketCapMB: tiny, FirstBucketMB: tiny})
	if err != nil {
		return err
	}
	defer s.Close()
	solver := s.Solver(testutil.Soon(t), gorgonia.NewAdamSolver())
	for step := range 3 {
		before := n.values()
		if err := n.run(sample(step, group.Rank())); err != nil {
			return err
		}
		err := solver.Step(gorgonia.NodesToValueGrads(n.learnables))
		if same := assert.ObjectsAreEqual(before, n.values()); same != (err != nil) {
			return fmt.Errorf("step %d: values unchanged: %v, error %w", step, same, err)
		}
		if err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
	}
	return nil
}

func TestSync_notFinite(t *testing.T) {
	for _, err := range memgroup.Run(2, func(group *memgroup.Group) error {
		n, err := newNet[float64](1, true)
		if err != nil {
			return err
		}
		s, err := gorgoniaddp.New(testutil.Soon(t), n.learnables, ddp.Options{Group: group, CheckFinite: true})
		if err != nil {
			return err
		}
		defer s.Close()
		if group.Rank() == 1 {
			backing[float64](n.learnables[1].Value())[0] = math.NaN()
		}
		if err := n.run(1); err != nil {
			return err
		}
		return s.Reduce(testutil.Soon(t))
	}) {
		require.ErrorIs(t, err, c10d.ErrNonFinite)
	}
}

func TestSync_Reduce(t *testing.T) {
	make := func(t *testing.T) (*net[float32], *gorgoniaddp.Sync) {
		n, err := newNet[float32](1, false)
		require.NoError(t, err)
		s, err := gorgoniaddp.New(testutil.Soon(t), n.learnables, ddp.Options{Group: memgroup.New(1)[0]})
		require.NoError(t, err)
		t.Cleanup(s.Close)
		return n, s
	}
	t.Run("before the machine has run", func(t *testing.T) {
		_, s := make(t)
		assert.ErrorContains(t, s.Reduce(testutil.Soon(t)), "the gradient of w1: a <nil>, and not a *tensor.Dense (gorgonia.Grad must be given it, and the machine have run)")
	})
	t.Run("a learnable that the cost does not use", func(t *testing.T) {
		n, _ := make(t)
		extra := gorgonia.NewVector(gorgonia.NewGraph(), tensor.Float32, gorgonia.WithShape(2), gorgonia.WithName("extra"), gorgonia.WithInit(gorgonia.Zeroes()))
		s, err := gorgoniaddp.New(testutil.Soon(t), append(gorgonia.Nodes{extra}, n.learnables...), ddp.Options{Group: memgroup.New(1)[0]})
		require.NoError(t, err)
		defer s.Close()
		require.NoError(t, n.run(1))
		assert.ErrorContains(t, s.Reduce(testutil.Soon(t)), "the gradient of extra: No Gradient node/value found")
	})
	t.Run("before the machine has run on one rank: all hear it", func(t *testing.T) {
		for rank, err := range memgroup.Run(2, func(group *memgroup.Group) error {
			n, err := newNet[float32](1, true)
			if err != nil {
				return err
			}
			s, err := gorgoniaddp.New(testutil.Soon(t), n.learnables, ddp.Options{Group: group})
			if err != nil {
				return err
			}
			defer s.Close()
			if group.Rank() == 0 {
				if err := n.run(1); err != nil {
					return err
				}
			}
			return s.Reduce(testutil.Soon(t))
		}) {
			assert.ErrorAs(t, err, new(*ddp.StepError), "rank %d", rank)
			assert.ErrorContains(t, err, "the gradient of w1", "rank %d", rank)
		}
	})
	t.Run("another value's memory", func(t *testing.T) {
		n, s := make(t)
		require.NoError(t, gorgonia.Let(n.learnables[2], tensor.New(tensor.WithShape(outputs), tensor.WithBacking([]float32{1, 2, 3}))))
		require.NoError(t, n.run(1))
		err := s.Reduce(testutil.Soon(t))
		require.ErrorIs(t, err, flat.ErrMoved)
		assert.ErrorContains(t, err, "b: ")
	})
	t.Run("a step of other nodes", func(t *testing.T) {
		n, s := make(t)
		err := s.Solver(testutil.Soon(t), gorgonia.NewVanillaSolver()).Step(gorgonia.NodesToValueGrads(gorgonia.Nodes{n.x}))
		assert.ErrorContains(t, err, "which New was not")
	})
	for name, c := range map[string]struct {
		inner gorgonia.Solver
		other bool // nodes, in the first step
		say   string
	}{
		"a step of other nodes on one rank: all hear it":                  {gorgonia.NewVanillaSolver(), true, "which New was not"},
		"a solver that fails on one rank: all hear it with the next step": {failingSolver{}, false, "this rank's solver failed, where the others' stepped: no step"},
	} {
		t.Run(name, func(t *testing.T) {
			for rank, err := range memgroup.Run(3, func(group *memgroup.Group) error {
				n, err := newNet[float32](1, true)
				if err != nil {
					return err
				}
				s, err := gorgoniaddp.New(testutil.Soon(t), n.learnables, ddp.Options{Group: group})
				if err != nil {
					return err
				}
				defer s.Close()
				nodes, inner := n.learnables, gorgonia.Solver(gorgonia.NewVanillaSolver())
				if group.Rank() == 1 {
					inner = c.inner
					if c.other {
						nodes = gorgonia.Nodes{n.x}
					}
				}
				solver := s.Solver(testutil.Soon(t), inner)
				for range 2 {
					if err := n.run(1); err != nil {
						return err
					}
					if failed := solver.Step(gorgonia.NodesToValueGrads(nodes)); failed != nil && (c.other || !errors.Is(failed, errSolver) || errors.As(failed, new(*ddp.StepError))) {
						return failed
					}
				}
				return nil
			}) {
				assert.ErrorAs(t, err, new(*ddp.StepError), "rank %d", rank)
				assert.ErrorContains(t, err, c.say, "rank %d", rank)
			}
		})
	}
}

var errSolver = errors.New("no step")

type failingSolver struct{}

func (failingSolver) Step([]gorgonia.ValueGrad) error { return errSolver }

func TestNew(t *testing.T) {
	g := gorgonia.NewGraph()
	vector := func(name string, opts ...gorgonia.NodeConsOpt) *gorgonia.Node {
		return gorgonia.NewVector(g, tensor.Float32, append([]gorgonia.NodeConsOpt{gorgonia.WithShape(2), gorgonia.WithName(name)}, opts...)...)
	}
	transposed := tensor.New(tensor.WithShape(2, 3), tensor.WithBacking([]float32{1, 2, 3, 4, 5, 6}))
	require.NoError(t, transposed.T())
	for name, c := range map[string]struct {
		nodes gorgonia.Nodes
		opts  ddp.Options
		say   string
	}{
		"none":       {gorgonia.Nodes{}, ddp.Options{}, "no learnables"},
		"nil":        {gorgonia.Nodes{nil}, ddp.Options{}, "learnable 0 is nil"},
		"no value":   {gorgonia.Nodes{vector("v")}, ddp.Options{}, "v: it has no value"},
		"a scalar":   {gorgonia.Nodes{gorgonia.NewScalar(g, tensor.Float32, gorgonia.WithName("s"), gorgonia.WithValue(float32(1)))}, ddp.Options{}, "s: a scalar: make it a vector of one element"},
		"two dtypes": {gorgonia.Nodes{vector("f", gorgonia.WithInit(gorgonia.Zeroes())), gorgonia.NewVector(g, tensor.Float64, gorgonia.WithShape(2), gorgonia.WithName("w"), gorgonia.WithInit(gorgonia.Zeroes()))}, ddp.Options{}, "w: it is of float64, and f of float32"},
		"integers":   {gorgonia.Nodes{gorgonia.NewVector(g, tensor.Int, gorgonia.WithShape(2), gorgonia.WithName("i"), gorgonia.WithValue(tensor.New(tensor.WithBacking([]int{1, 2}))))}, ddp.Options{}, "i: it is of int"},
		"transposed": {gorgonia.Nodes{gorgonia.NewMatrix(g, tensor.Float32, gorgonia.WithShape(3, 2), gorgonia.WithName("t"), gorgonia.WithValue(transposed))}, ddp.Options{}, "t: it is not in row-major order"},
		"unused":     {gorgonia.Nodes{vector("u", gorgonia.WithInit(gorgonia.Zeroes()))}, ddp.Options{Unused: ddp.UnusedFind}, "UnusedFind"},
	} {
		t.Run(name, func(t *testing.T) {
			errs := memgroup.Run(2, func(group *memgroup.Group) error {
				n, err := newNet[float32](1, true)
				if err != nil {
					return err
				}
				nodes, opts := n.learnables, ddp.Options{}
				if group.Rank() == 1 {
					nodes, opts = c.nodes, c.opts
				}
				opts.Group = group
				_, err = gorgoniaddp.New(testutil.Soon(t), nodes, opts)
				return err
			})
			assert.ErrorContains(t, errs[1], c.say)
			assert.ErrorContains(t, errs[0], "rank 1 failed: ")
		})
	}
	t.Run("another model on one rank, by name on every rank", func(t *testing.T) {
		for _, err := range memgroup.Run(2, func(group *memgroup.Group) error {
			n, err := newNet[float32](1, true)
			if err != nil {
				return err
			}
			nodes := n.learnables
			if group.Rank() == 1 {
				nodes = gorgonia.Nodes{nodes[1], nodes[0], nodes[2], nodes[3]}
			}
			_, err = gorgoniaddp.New(testutil.Soon(t), nodes, ddp.Options{Group: group})
			return err
		}) {
			require.ErrorIs(t, err, ddp.ErrMismatch)
			assert.ErrorContains(t, err, "parameter 0 is w1 [4 6] float32 on rank 0 and w2 [6 3] float32 on rank 1")
		}
	})
}

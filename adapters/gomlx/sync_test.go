package gomlxddp_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/gomlx/gomlx/pkg/core/dtypes"
	. "github.com/gomlx/gomlx/pkg/core/graph"
	"github.com/gomlx/gomlx/pkg/core/shapes"
	"github.com/gomlx/gomlx/pkg/core/tensors"
	mlctx "github.com/gomlx/gomlx/pkg/ml/context"
	"github.com/gomlx/gomlx/pkg/ml/layers/batchnorm"
	"github.com/gomlx/gomlx/pkg/ml/layers/regularizers"
	"github.com/gomlx/gomlx/pkg/ml/train"
	"github.com/gomlx/gomlx/pkg/ml/train/losses"
	"github.com/gomlx/gomlx/pkg/ml/train/optimizers"
	"github.com/gomlx/gomlx/pkg/ml/train/optimizers/cosineschedule"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// tiny makes every parameter a bucket of its own.
const tiny = 1e-9

const rate = 0.05

func sgd() optimizers.Interface {
	return optimizers.StochasticGradientDescent().WithDecay(false).WithLearningRate(rate).Done()
}

// TestOptimizer_alone: in a world of one, N steps give all variables the bits that GoMLX without the
// adapter gives them, optimiser's state, random numbers and running means among them.
func TestOptimizer_alone(t *testing.T) {
	for name, c := range map[string]struct {
		inner  func() optimizers.Interface
		change func(*net)
		steps  int // of which gradients are added up
	}{
		"sgd":                  {inner: func() optimizers.Interface { return optimizers.StochasticGradientDescent() }},
		"adam, dropout":        {inner: func() optimizers.Interface { return optimizers.Adam().Done() }, change: func(n *net) { n.dropout = 0.3 }},
		"adamw, accumulated":   {inner: func() optimizers.Interface { return optimizers.Adam().WeightDecay(0.01).Done() }, change: func(n *net) { n.dropout = 0.3 }, steps: 3},
		"rmsprop, float64":     {inner: func() optimizers.Interface { return optimizers.RMSProp().Done() }, change: func(n *net) { n.dtype = dtypes.Float64 }},
		"functions per step":   {inner: sgd, change: func(n *net) { n.extra = shrinking }},
		"the same, summed up":  {inner: sgd, change: func(n *net) { n.extra = shrinking }, steps: 2},
		"batch normalization":  {inner: sgd, change: func(n *net) { n.extra = normalized }},
		"cosine learning rate": {inner: func() optimizers.Interface { return optimizers.Adam().Done() }, change: func(n *net) { n.extra = cosine }},
	} {
		t.Run(name, func(t *testing.T) {
			stock, n := newNet(1, c.inner(), false, c.change), newNet(1, c.inner(), true, c.change)
			for _, n := range []*net{stock, n} {
				if c.steps > 0 {
					require.NoError(t, n.trainer.AccumulateGradients(c.steps))
				}
			}
			stock.newLoop()
			require.NoError(t, n.attach(testutil.Soon(t), ddp.Options{Group: memgroup.New(1)[0]}))
			defer n.opt.Close()
			for _, n := range []*net{stock, n} {
				d := samples(0, 0, 24)
				d.dtype = n.dtype
				require.NoError(t, n.run(d, 24))
			}
			assert.Equal(t, values(stock.ctx), values(n.ctx))
			assert.EqualValues(t, 24/max(1, c.steps), n.trainer.GlobalStep())
			assert.Len(t, n.opt.Parameters(), len(trained)+map[string]int{"batch normalization": 2}[name])
		})
	}
}

// shrinking has two functions per step, which do not commute with the update, or with each other.
func shrinking(ctx *mlctx.Context, out *Node) *Node {
	weights := ctx.GetVariableByScopeAndName("/hidden", "weights")
	g := out.Graph()
	regularizers.L1(0.001)(ctx, g, weights)
	train.AddPerStepUpdateGraphFn(ctx.In("shrink"), g, func(_ *mlctx.Context, g *Graph) {
		weights.SetValueGraph(MulScalar(weights.ValueGraph(g), 0.9))
	})
	return out
}

func normalized(ctx *mlctx.Context, out *Node) *Node {
	return batchnorm.New(ctx.In("norm"), out, -1).UseBackendInference(false).Done()
}

func cosine(ctx *mlctx.Context, out *Node) *Node {
	cosineschedule.New(ctx, out.Graph(), dtypes.Float32).PeriodSteps(10).LearningRate(0.01).Done()
	return out
}

// gradients computes a rank's own gradients in a step, by GoMLX alone, of a net of given values.
func gradients[T dtypes.Supported](t *testing.T, n *net) func(step, rank int) [][]T {
	exec, err := mlctx.NewExec(backend(), n.ctx.Checked(false), func(ctx *mlctx.Context, in []*Node) []*Node {
		loss := ReduceAllMean(losses.MeanSquaredError(in[1:], n.model(ctx, nil, in[:1])))
		byName := map[string]*Node{}
		grads, k := ctx.BuildTrainableVariablesGradientsGraph(loss), 0
		for v := range ctx.IterVariables() {
			if v.Trainable && v.InUseByGraph(loss.Graph()) {
				byName[v.ScopeAndName()] = grads[k]
				k++
			}
		}
		var sorted []*Node
		for _, name := range trained {
			sorted = append(sorted, byName[name])
		}
		return sorted
	})
	require.NoError(t, err)
	return func(step, rank int) (list [][]T) {
		d := samples(rank, step, 1)
		d.dtype = n.dtype
		_, x, y, err := d.Yield()
		require.NoError(t, err)
		grads, err := exec.Exec(x[0], y[0])
		require.NoError(t, err)
		for _, g := range grads {
			list = append(list, tensors.MustCopyFlatData[T](g))
		}
		return list
	}
}

// TestOptimizer_mean: ranks stay bitwise alike, and are what the mean of their gradients, computed by
// hand, gives. Each but rank 0 starts from other values.
func TestOptimizer_mean(t *testing.T) {
	for _, size := range []int{2, 4} {
		for _, layout := range []ddp.Layout{ddp.LayoutFixed, ddp.LayoutRebuilt} {
			t.Run(fmt.Sprintf("float32, %d ranks, layout %d", size, layout), func(t *testing.T) { meanByHand[float32](t, size, layout) })
		}
		t.Run(fmt.Sprintf("float64, %d ranks", size), func(t *testing.T) { meanByHand[float64](t, size, ddp.LayoutFixed) })
	}
}

func meanByHand[T float32 | float64](t *testing.T, size int, layout ddp.Layout) {
	const steps = 5
	ofType := func(n *net) {
		if dtypes.FromGenericsType[T]() == dtypes.Float64 {
			n.dtype = dtypes.Float64
		}
	}
	byHand := newNet(1, sgd(), false, ofType)
	ownGradients := gradients[T](t, byHand)
	ownGradients(0, 0) // makes the variables
	now := elements[T](byHand)
	var expected [steps][][]T
	for step := range steps {
		mean := make([][]T, len(now))
		for rank := range size {
			for i, g := range ownGradients(step, rank) {
				if rank == 0 {
					mean[i] = make([]T, len(g))
				}
				for k := range g {
					mean[i][k] += g[k] / T(size)
				}
			}
		}
		next := make([][]T, len(now))
		for i, name := range trained {
			for k, g := range mean[i] {
				update := g * T(float64(T(rate))) // rounded by itself, also where a processor fuses
				next[i] = append(next[i], now[i][k]-T(update))
			}
			scope, name := mlctx.SplitScope(name)
			v := byHand.ctx.GetVariableByScopeAndName(scope, name)
			require.NoError(t, v.SetValue(tensors.FromFlatDataAndDimensions(next[i], v.Shape().Dimensions...)))
		}
		now, expected[step] = next, next
	}
	allWell(t, memgroup.Run(size, func(group *memgroup.Group) error {
		n := newNet(int64(1+group.Rank()), sgd(), true, ofType) // rank 0's is byHand's
		if err := n.attach(testutil.Soon(t), ddp.Options{Group: group, BucketCapMB: tiny, FirstBucketMB: tiny, Layout: layout}); err != nil {
			return err
		}
		defer n.opt.Close()
		step := 0
		n.loop.OnStep("compare", 0, func(*train.Loop, []*tensors.Tensor) error {
			if got := elements[T](n); !assert.ObjectsAreEqual(expected[step], got) {
				return fmt.Errorf("rank %d, step %d: %v, and by hand %v", group.Rank(), step, got, expected[step])
			}
			step++
			return nil
		})
		d := samples(group.Rank(), 0, steps)
		d.dtype = n.dtype
		if err := n.run(d, steps); err != nil {
			return err
		}
		if frozen, want := values(n.ctx)["/frozen"], values(byHand.ctx)["/frozen"]; !assert.ObjectsAreEqual(want, frozen) {
			return fmt.Errorf("rank %d: the frozen variable is %v, and %v on rank 0", group.Rank(), frozen, want)
		}
		return n.opt.Digest(testutil.Soon(t))
	}))
}

// TestOptimizer_accumulated: ranks whose gradients are accumulated before they are reduced.
func TestOptimizer_accumulated(t *testing.T) {
	run := func(t *testing.T, first bool) []error {
		return memgroup.Run(2, func(group *memgroup.Group) error {
			n := newNet(int64(1+group.Rank()), optimizers.Adam().Done(), true, func(n *net) { n.dropout = 0.2 })
			if first {
				if err := n.trainer.AccumulateGradients(3); err != nil {
					return err
				}
			}
			err := n.attach(testutil.Soon(t), ddp.Options{Group: group})
			if !first {
				err = errors.Join(err, n.trainer.AccumulateGradients(3))
			}
			defer n.opt.Close()
			if err != nil {
				return err
			}
			if err := n.run(samples(group.Rank(), 0, 12), 12); err != nil {
				return err
			}
			if got := n.trainer.GlobalStep(); got != 4 {
				return fmt.Errorf("%d steps, and not 4", got)
			}
			return n.opt.Digest(testutil.Soon(t))
		})
	}
	t.Run("ranks of other seeds", func(t *testing.T) { allWell(t, run(t, true)) })
	t.Run("another number of steps on one rank, on every rank", func(t *testing.T) {
		for _, steps := range []int{1, 3} {
			for _, err := range memgroup.Run(2, func(group *memgroup.Group) error {
				n := newNet(1, sgd(), true, nil)
				accumulated := 2
				if group.Rank() == 1 {
					accumulated = steps
				}
				if err := n.trainer.AccumulateGradients(accumulated); err != nil {
					return err
				}
				return n.attach(testutil.Soon(t), ddp.Options{Group: group})
			}) {
				assert.ErrorContains(t, err, fmt.Sprintf("Trainer.AccumulateGradients is 2 on rank 0 and %d on rank 1", steps))
			}
		}
	})
	t.Run("values that differ, by name on every rank", func(t *testing.T) {
		for _, err := range run(t, false) {
			require.ErrorIs(t, err, ddp.ErrValues)
			assert.ErrorContains(t, err, "/hidden/weights")
			assert.ErrorContains(t, err, "call AccumulateGradients before Attach")
		}
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

// TestOptimizer_aHookFails: on one rank in step 2. No rank updates anything, and once they have
// recovered the step is done again, as if nothing had been.
func TestOptimizer_aHookFails(t *testing.T) {
	train := func(group *memgroup.Group, failAt int) (*net, error) {
		n := newNet(1, optimizers.Adam().Done(), true, nil)
		hook := &failing{AllReduceCommHook: hooks.AllReduceCommHook{Group: group}}
		if group.Rank() == 1 {
			hook.failAt = failAt
		}
		return n, n.attach(testutil.Soon(t), ddp.Options{Group: group, Hook: hook, BucketCapMB: tiny, FirstBucketMB: tiny})
	}
	allWell(t, memgroup.Run(2, func(group *memgroup.Group) error {
		n, err := train(group, 5*2+3)
		if err != nil {
			return err
		}
		defer n.opt.Close()
		d := samples(group.Rank(), 0, 6)
		if err := n.run(d, 2); err != nil {
			return err
		}
		before := elements[float32](n)
		err = n.run(d, 4)
		var step *ddp.StepError
		switch {
		case !errors.As(err, &step):
			return fmt.Errorf("the step failed by: %w", err)
		case !assert.ObjectsAreEqual(before, elements[float32](n)):
			return errors.New("a step that failed has changed variables")
		}
		if err := n.opt.Reducer().Recover(testutil.Soon(t)); err != nil {
			return err
		}
		if err := errors.Join(n.opt.Sync(testutil.Soon(t)), n.run(d, 3)); err != nil {
			return err
		}
		if err := n.opt.Digest(testutil.Soon(t)); err != nil {
			return err
		}
		undisturbed, err := train(group, 0)
		if err != nil {
			return err
		}
		defer undisturbed.opt.Close()
		if err := undisturbed.run(samples(group.Rank(), 0, 6), 6); err != nil {
			return err
		}
		if want, got := elements[float32](undisturbed), elements[float32](n); !assert.ObjectsAreEqual(want, got) {
			return fmt.Errorf("rank %d: %v, and %v where nothing failed", group.Rank(), got, want)
		}
		return nil
	}))
}

// TestOptimizer_Sync: a trainer with a loop of its own, whose steps ddp.Retry does again.
func TestOptimizer_Sync(t *testing.T) {
	allWell(t, memgroup.Run(2, func(group *memgroup.Group) error {
		n := newNet(1, sgd(), true, nil)
		hook := &failing{AllReduceCommHook: hooks.AllReduceCommHook{Group: group}, failAt: 2 + group.Rank()}
		ctx := testutil.Soon(t)
		if err := n.opt.Open(ctx, n.ctx, ddp.Options{Group: group, Hook: hook}); err != nil {
			return err
		}
		defer n.opt.Close()
		if err := n.opt.Sync(ctx); err != nil { // nothing has run
			return err
		}
		d := samples(group.Rank(), 0, 4)
		for range 4 {
			_, x, y, err := d.Yield()
			if err != nil {
				return err
			}
			if _, err := n.trainer.TrainStep(nil, x, y); err != nil {
				return err
			}
			if err := ddp.Retry(ctx, n.opt.Reducer(), func() error { return n.opt.Sync(ctx) }); err != nil {
				return err
			}
			if err := n.opt.Sync(ctx); err != nil { // once more: these gradients are applied
				return err
			}
		}
		if got := n.trainer.GlobalStep(); got != 4 {
			return fmt.Errorf("%d steps, and not 4", got)
		}
		return n.opt.Digest(ctx)
	}))
}

// TestOptimizer_notFinite: a loss that is not finite on one rank fails the step of all, and changes
// nothing.
func TestOptimizer_notFinite(t *testing.T) {
	for _, c := range []struct {
		at, steps int
		value     float32
	}{{0, 1, float32(math.NaN())}, {2, 1, float32(math.Inf(1))}, {0, 2, float32(math.NaN())}, {3, 2, float32(math.NaN())}} {
		t.Run(fmt.Sprintf("%v at %d of %d", c.value, c.at, c.steps), func(t *testing.T) {
			for rank, err := range memgroup.Run(2, func(group *memgroup.Group) error {
				n := newNet(1, sgd(), true, nil)
				if c.steps > 1 {
					if err := n.trainer.AccumulateGradients(c.steps); err != nil {
						return err
					}
				}
				if err := n.attach(testutil.Soon(t), ddp.Options{Group: group}); err != nil {
					return err
				}
				defer n.opt.Close()
				steps := int64(0)
				n.loop.OnStep("count", 0, func(*train.Loop, []*tensors.Tensor) error {
					steps = n.trainer.GlobalStep()
					return nil
				})
				d := &poisoned{data: samples(group.Rank(), 0, 8), at: c.at, value: c.value}
				if group.Rank() == 0 {
					d.at = -1
				}
				err := n.run(d, 8)
				if steps != int64(c.at/c.steps) {
					err = errors.Join(err, fmt.Errorf("%d updates", steps))
				}
				for _, list := range elements[float32](n) {
					for _, v := range list {
						if math.IsNaN(float64(v)) {
							return errors.Join(err, errors.New("variables are poisoned"))
						}
					}
				}
				return err
			}) {
				require.ErrorContains(t, err, fmt.Sprintf("gomlxddp, rank 1: the loss is %v", c.value), "rank %d", rank)
				assert.NotContains(t, err.Error(), "updates")
				assert.NotContains(t, err.Error(), "poisoned")
			}
		})
	}
}

// poisoned gives one batch with a number that is not finite.
type poisoned struct {
	*data
	at    int
	value float32
}

func (p *poisoned) Yield() (spec any, x, y []*tensors.Tensor, err error) {
	now := p.data.at
	spec, x, y, err = p.data.Yield()
	if now == p.at {
		x[0].MustMutableFlatData(func(flat any) { flat.([]float32)[0] = p.value })
		y[0].MustMutableFlatData(func(flat any) { flat.([]float32)[0] = p.value })
	}
	return spec, x, y, err
}

// heads is a dataset whose spec says which variables the model uses.
type heads struct {
	*data
	specs []string
}

func (h *heads) Yield() (spec any, x, y []*tensors.Tensor, err error) {
	spec = h.specs[h.data.at]
	_, x, y, err = h.data.Yield()
	return spec, x, y, err
}

// headNet adds variable /head/SPEC to what it gives, for batches of that spec.
func headNet(seed int64, inner optimizers.Interface) *net {
	n := &net{dtype: dtypes.Float32, ctx: mlctx.New()}
	n.ctx.SetParam(mlctx.ParamInitialSeed, seed)
	for _, name := range []string{"a", "b"} {
		n.ctx.In("head").VariableWithValue(name, []float32{1, 2, 3})
	}
	n.opt = wrap(inner)
	n.trainer = train.NewTrainer(backend(), n.ctx.Checked(false), func(ctx *mlctx.Context, spec any, in []*Node) []*Node {
		name, late := spec.(string), spec == "late"
		if late {
			ctx.In("head").VariableWithValue("late", []float32{1, 2, 3})
		}
		return []*Node{Add(n.model(ctx, spec, in)[0], InsertAxes(ctx.GetVariableByScopeAndName("/head", name).ValueGraph(in[0].Graph()), 0))}
	}, losses.MeanSquaredError, n.opt, nil, nil)
	return n
}

func TestOptimizer_unused(t *testing.T) {
	run := func(unused ddp.Unused, specs [2][]string, check func(n *net) error) []error {
		return memgroup.Run(2, func(group *memgroup.Group) error {
			n := headNet(1, optimizers.Adam().Done())
			if err := n.attach(testutil.Soon(t), ddp.Options{Group: group, Unused: unused}); err != nil {
				return err
			}
			defer n.opt.Close()
			mine := specs[group.Rank()]
			if err := n.run(&heads{samples(group.Rank(), 0, len(mine)), mine}, len(mine)); err != nil {
				return err
			}
			if err := n.opt.Digest(testutil.Soon(t)); err != nil || check == nil {
				return err
			}
			return check(n)
		})
	}
	t.Run("by one rank in the first step, by name on every rank", func(t *testing.T) {
		for _, err := range run(ddp.UnusedIsError, [2][]string{{"a"}, {"b"}}, nil) {
			require.ErrorIs(t, err, ddp.ErrMismatch)
			assert.ErrorContains(t, err, "parameter 0 is /head/a [3] float32 on rank 0 and /head/b [3] float32 on rank 1")
		}
	})
	t.Run("in a later step, by name", func(t *testing.T) {
		for _, err := range run(ddp.UnusedIsError, [2][]string{{"a", "a"}, {"a", "b"}}, nil)[1:] {
			assert.ErrorContains(t, err, "/head/b is trained by this graph, and not by the first one")
		}
	})
	t.Run("a variable of a later step", func(t *testing.T) {
		for _, err := range run(ddp.UnusedFind, [2][]string{{"a", "late"}, {"a", "late"}}, nil) {
			assert.ErrorContains(t, err, "/head/late is trained by this graph, and not by the first one")
		}
	})
	t.Run("found", func(t *testing.T) {
		allWell(t, run(ddp.UnusedFind, [2][]string{{"a", "a", "a"}, {"a", "b", "a"}}, func(n *net) error {
			all := values(n.ctx)
			start := []float32{1, 2, 3}
			if assert.ObjectsAreEqual(start, all["/head/a"]) || assert.ObjectsAreEqual(start, all["/head/b"]) {
				return fmt.Errorf("they were not trained: %v, %v", all["/head/a"], all["/head/b"])
			}
			return nil
		}))
	})
	t.Run("found, used by no rank", func(t *testing.T) {
		allWell(t, run(ddp.UnusedFind, [2][]string{{"a", "a"}, {"a", "a"}}, func(n *net) error {
			if b := values(n.ctx)["/head/b"]; !assert.ObjectsAreEqual([]float32{1, 2, 3}, b) {
				return fmt.Errorf("what no rank uses is %v", b)
			}
			return nil
		}))
	})
}

// TestOptimizer_Join: ranks with fewer batches.
func TestOptimizer_Join(t *testing.T) {
	run := func(steps ...int) []error {
		return memgroup.Run(len(steps), func(group *memgroup.Group) error {
			n := newNet(int64(1+group.Rank()), optimizers.Adam().Done(), true, nil)
			if err := n.attach(testutil.Soon(t), ddp.Options{Group: group, Join: true}); err != nil {
				return err
			}
			defer n.opt.Close()
			for range 2 { // and go on after it
				if _, err := n.loop.RunEpochs(samples(group.Rank(), 0, steps[group.Rank()]), 1); err != nil {
					return err
				}
			}
			if got := n.trainer.GlobalStep(); got != 10 {
				return fmt.Errorf("rank %d: %d steps, and not 10", group.Rank(), got)
			}
			return n.opt.Digest(testutil.Soon(t))
		})
	}
	t.Run("uneven", func(t *testing.T) { allWell(t, run(3, 5, 1)) })
	t.Run("a rank with nothing", func(t *testing.T) {
		for _, err := range run(3, 0, 5) {
			assert.ErrorContains(t, err, "gomlxddp, rank 1: the dataset gave no batch")
		}
	})
	t.Run("a rank with nothing, without Join, in the first epochs or later", func(t *testing.T) {
		for _, goodRuns := range []int{0, 1} {
			for rank, err := range memgroup.Run(2, func(group *memgroup.Group) error {
				n := newNet(1, sgd(), true, nil)
				if err := n.attach(testutil.Soon(t), ddp.Options{Group: group}); err != nil {
					return err
				}
				defer n.opt.Close()
				for range goodRuns {
					if _, err := n.loop.RunEpochs(samples(group.Rank(), 0, 2), 1); err != nil {
						return fmt.Errorf("in the good run: %v", err)
					}
				}
				_, err := n.loop.RunEpochs(samples(group.Rank(), 0, 2*(1-group.Rank())), 1)
				return err
			}) {
				assert.ErrorContains(t, err, "gomlxddp, rank 1: the dataset gave no batch", "rank %d after %d runs", rank, goodRuns)
			}
		}
	})
}

// TestOptimizer_hookSeesValues: values that GoMLX moved are not those that a hook sees.
func TestOptimizer_hookSeesValues(t *testing.T) {
	n := newNet(1, sgd(), true, nil)
	group := memgroup.New(1)[0]
	hook := &looking{AllReduceCommHook: hooks.AllReduceCommHook{Group: group}}
	require.NoError(t, n.attach(testutil.Soon(t), ddp.Options{Group: group, Hook: hook}))
	defer n.opt.Close()
	var want [][]float32
	n.loop.OnStep("note", 0, func(*train.Loop, []*tensors.Tensor) error {
		want = append(want, elements[float32](n)[3])
		return nil
	})
	require.NoError(t, n.run(samples(0, 0, 6), 6))
	assert.Equal(t, want[:5], hook.seen[1:]) // a step's values are those after the former one
}

type looking struct {
	hooks.AllReduceCommHook
	seen [][]float32
}

func (h *looking) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	for _, p := range b.Parameters() {
		if p.Name == trained[3] {
			data, err := tensor.Slice[float32](p.Data)
			if err != nil {
				return nil, err
			}
			h.seen = append(h.seen, append([]float32(nil), data...))
		}
	}
	return h.AllReduceCommHook.RunHook(ctx, b)
}

func TestOptimizer_BroadcastBuffers(t *testing.T) {
	allWell(t, memgroup.Run(2, func(group *memgroup.Group) error {
		n := newNet(1, sgd(), true, func(n *net) { n.extra = normalized })
		if err := n.attach(testutil.Soon(t), ddp.Options{Group: group}); err != nil {
			return err
		}
		defer n.opt.Close()
		if err := n.run(samples(group.Rank(), 0, 3), 3); err != nil {
			return err
		}
		mean := func() error { return ddpEqual(t, group, values(n.ctx)["/norm/batch_normalization/mean"]) }
		if err := mean(); err == nil {
			return errors.New("the ranks' running means are alike by chance")
		}
		if err := n.opt.BroadcastBuffers(testutil.Soon(t)); err != nil {
			return err
		}
		return mean()
	}))
}

// ddpEqual says whether a value is the same on all ranks.
func ddpEqual(t *testing.T, group *memgroup.Group, value any) error {
	all, err := c10d.AllGatherBytes(testutil.Soon(t), group, []byte(fmt.Sprint(value)))
	if err == nil && string(all[0]) != string(all[1]) {
		err = fmt.Errorf("%s and %s", all[0], all[1])
	}
	return err
}

func TestBroadcast(t *testing.T) {
	allWell(t, memgroup.Run(2, func(group *memgroup.Group) error {
		ctx := mlctx.New()
		ctx.In("a").VariableWithValue("x", []float32{float32(group.Rank()), 2})
		ctx.VariableWithValue("count", int64(7-group.Rank())).SetTrainable(false)
		if err := broadcastAll(t, group, ctx); err != nil {
			return err
		}
		if got := values(ctx); !assert.ObjectsAreEqual(map[string]any{"/a/x": []float32{0, 2}, "/count": int64(7)}, got) {
			return fmt.Errorf("%v", got)
		}
		return nil
	}))
	for _, err := range memgroup.Run(2, func(group *memgroup.Group) error {
		ctx := mlctx.New()
		ctx.In(fmt.Sprintf("of%d", group.Rank())).VariableWithValue("x", []float32{1})
		return broadcastAll(t, group, ctx)
	}) {
		require.ErrorIs(t, err, ddp.ErrMismatch)
		assert.ErrorContains(t, err, "/of0/x")
	}
}

// notAnOptimizer takes no gradients.
type notAnOptimizer struct{}

func (notAnOptimizer) UpdateGraph(*mlctx.Context, *Graph, *Node) {}
func (notAnOptimizer) Clear(*mlctx.Context) error                { return nil }

func TestOptimizer_Attach(t *testing.T) {
	for name, c := range map[string]struct {
		inner  optimizers.Interface
		opts   ddp.Options
		change func(n *net)
		say    string
	}{
		"an optimiser of its own":  {inner: notAnOptimizer{}, say: "gomlxddp_test.notAnOptimizer does not take gradients"},
		"a static graph":           {inner: sgd(), opts: ddp.Options{StaticGraph: true}, say: "StaticGraph"},
		"twice":                    {inner: sgd(), change: func(n *net) { _ = n.opt.Open(context.Background(), n.ctx, ddp.Options{Group: memgroup.New(1)[0]}) }, say: "attached already"},
		"a dtype that is not here": {inner: sgd(), opts: ddp.Options{Unused: ddp.UnusedFind}, change: func(n *net) { n.ctx.In("odd").VariableWithShape("eight", shapes.Make(dtypes.F8E4M3B11FNUZ, 2)) }, say: "/odd/eight: its dtype F8E4M3B11FNUZ has no counterpart in torch here"},
	} {
		t.Run(name, func(t *testing.T) {
			errs := memgroup.Run(2, func(group *memgroup.Group) error {
				inner, opts, rank := sgd(), ddp.Options{Unused: c.opts.Unused}, group.Rank()
				if rank == 1 {
					inner, opts = c.inner, c.opts
				}
				n := newNet(1, inner, true, nil)
				if rank == 1 && c.change != nil {
					c.change(n)
				}
				opts.Group = group
				if err := n.attach(testutil.Soon(t), opts); err != nil {
					return err
				}
				defer n.opt.Close()
				return n.run(samples(rank, 0, 1), 1)
			})
			assert.ErrorContains(t, errs[1], c.say)
			assert.ErrorContains(t, errs[0], "rank 1 failed: ")
		})
	}
	t.Run("not at all", func(t *testing.T) {
		n := newNet(1, sgd(), true, nil)
		n.newLoop()
		assert.ErrorContains(t, n.run(samples(0, 0, 1), 1), "call Attach (or Open) before the first step")
	})
	t.Run("another model on one rank, by name on every rank and before the first step", func(t *testing.T) {
		for _, err := range memgroup.Run(2, func(group *memgroup.Group) error {
			n := newNet(1, sgd(), true, func(n *net) {
				if group.Rank() == 1 {
					n.extra = func(ctx *mlctx.Context, out *Node) *Node {
						return Mul(out, ctx.In("out").VariableWithValue("more", float32(1)).ValueGraph(out.Graph()))
					}
				}
			})
			if err := n.attach(testutil.Soon(t), ddp.Options{Group: group}); err != nil {
				return err
			}
			defer n.opt.Close()
			err := n.run(samples(group.Rank(), 0, 1), 1)
			if n.opt.Reducer() != nil || n.trainer.GlobalStep() != 0 {
				return errors.New("a step was done")
			}
			return err
		}) {
			require.ErrorIs(t, err, ddp.ErrMismatch)
			assert.ErrorContains(t, err, "parameter 3 is /out/weights [6 3] float32 on rank 0 and /out/more [] float32 on rank 1")
		}
	})
	t.Run("a function per step that fails in the update's graph", func(t *testing.T) {
		for _, err := range memgroup.Run(2, func(group *memgroup.Group) error {
			n := newNet(1, sgd(), true, func(n *net) {
				n.extra = func(ctx *mlctx.Context, out *Node) *Node {
					train.AddPerStepUpdateGraphFn(ctx.In("odd"), out.Graph(), func(ctx *mlctx.Context, g *Graph) { train.GetLosses(ctx, g) })
					return out
				}
			})
			if err := n.attach(testutil.Soon(t), ddp.Options{Group: group}); err != nil {
				return err
			}
			defer n.opt.Close()
			err := n.run(samples(group.Rank(), 0, 1), 1)
			if again := n.opt.Sync(testutil.Soon(t)); again == nil {
				return errors.New("and then it could")
			}
			return err
		}) {
			assert.ErrorContains(t, err, "the function of AddPerStepUpdateGraphFn in scope /odd, in the graph of the update")
			assert.ErrorContains(t, err, "could not update its variables")
		}
	})
}

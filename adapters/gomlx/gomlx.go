package gomlxddp

// GoMLX's names that this package uses are in this file and in shard.go: v0.27 renamed many.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/gomlx/gomlx/backends"
	"github.com/gomlx/gomlx/pkg/core/dtypes"
	"github.com/gomlx/gomlx/pkg/core/graph"
	"github.com/gomlx/gomlx/pkg/core/shapes"
	"github.com/gomlx/gomlx/pkg/core/tensors"
	mlctx "github.com/gomlx/gomlx/pkg/ml/context"
	"github.com/gomlx/gomlx/pkg/ml/context/initializers"
	"github.com/gomlx/gomlx/pkg/ml/train"
	"github.com/gomlx/gomlx/pkg/ml/train/metrics"
	"github.com/gomlx/gomlx/pkg/ml/train/optimizers"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/gather"
	"pyhook/tensor"
)

// Optimizer is an optimiser for train.NewTrainer that steps by the mean of all ranks' gradients. Its
// methods are for one goroutine, which runs one step after another.
type Optimizer struct {
	inner optimizers.Interface
	root  *mlctx.Context
	opts  ddp.Options
	ctx   context.Context // Open's, for what is done while graphs are built

	params  *copies // of the variables that are trained
	index   map[*mlctx.Variable]int
	buffers []variable // of the model: not trained
	state   []variable // the inner optimiser's, of its first update
	reducer *ddp.Reducer

	plans   []*plan
	done    *tensors.Tensor // planVariable's value, of the last gradients that were applied
	updates map[string]*mlctx.Exec
	inputs  map[int]*tensors.Tensor // reduced gradients, by parameter
	broken  error
}

// plan is what a training graph leaves to be done after it has run.
type plan struct {
	backend backends.Backend
	ctx     *mlctx.Context
	loss    dtypes.DType
	grads   []gradient // in the order of the parameters
	perStep []perStep
}

// gradient is a variable that holds this rank's gradient of a parameter.
type gradient struct {
	param int
	variable
}

// perStep is a function of train.AddPerStepUpdateGraphFn.
type perStep struct {
	scope string
	build train.ContextGraphFn
}

const (
	gradientScope = "ddp_grads" // of variables that hold a step's own gradients
	planVariable  = "#plan"     // the index of the plan of the graph that has run
)

// Wrap returns an optimiser for train.NewTrainer that updates variables as inner does, by gradients
// that were reduced over the ranks. inner must implement train.OptimizeWithGradients, as all of
// GoMLX's own do. Attach or Open it before the first step.
func Wrap(inner optimizers.Interface) *Optimizer { return &Optimizer{inner: inner} }

// Attach has a loop reduce and apply the gradients of each of its steps, before other functions of
// OnStep see it; with Options.Join it also calls Join at the loop's end, and without it a loop that
// gave this rank no batch is an error on every rank. A collective: what is wrong on one rank is an
// error on every rank. opts are those of ddp.NewReducer but StaticGraph. ctx bounds the waiting for
// other ranks in all steps. Errors of a step are returned by the loop: those of Sync, or that the loss
// of a rank is not finite, on all ranks and before anything was updated.
//
// With Trainer.AccumulateGradients call that first: then ranks cannot be given rank 0's values before
// they compute gradients, so Attach has all initialise from rank 0's random numbers, and values that
// differ all the same are an error by name.
func (o *Optimizer) Attach(ctx context.Context, loop *train.Loop, opts ddp.Options) error {
	if err := o.Open(ctx, loop.Trainer.Context(), opts); err != nil {
		return err
	}
	var own *tensors.Tensor
	accumulating := loop.Trainer.NumAccumulatingSteps()
	if err := o.sameOnAll(ctx, "Trainer.AccumulateGradients", accumulating); err != nil {
		return err
	}
	if accumulating > 1 {
		var err error
		if own, err = o.shareRandom(ctx); err != nil {
			return err
		}
	}
	loop.OnStep("ddp", math.MinInt, func(_ *train.Loop, results []*tensors.Tensor) error {
		if own != nil { // variables have values now
			err := o.random().SetValue(own)
			if own = nil; err != nil {
				return err
			}
		}
		if loss := shapes.ConvertTo[float64](results[0].Value()); math.IsNaN(loss) || math.IsInf(loss, 0) {
			return o.leave(ctx, fmt.Errorf("gomlxddp, rank %d: the loss is %v", o.opts.Group.Rank(), loss))
		}
		return o.Sync(ctx)
	})
	loop.OnEnd("ddp", math.MinInt, func(loop *train.Loop, _ []*tensors.Tensor) error {
		switch {
		case opts.Join:
			return o.Join(ctx)
		case loop.LoopStep == loop.StartStep: // GoMLX itself takes that for a good end
			return o.leave(ctx, o.noBatch())
		}
		return nil
	})
	return nil
}

// Open is Attach for trainers with a loop of their own, which call Sync after each step: root is
// train.NewTrainer's. ctx also bounds the waiting for other ranks while the first graphs are built.
func (o *Optimizer) Open(ctx context.Context, root *mlctx.Context, opts ddp.Options) error {
	var err error
	switch _, ok := o.inner.(train.OptimizeWithGradients); {
	case o.root != nil:
		err = errors.New("gomlxddp: the optimiser is attached already")
	case !ok:
		err = fmt.Errorf("gomlxddp: a %T does not take gradients (train.OptimizeWithGradients)", o.inner)
	case opts.StaticGraph:
		err = errors.New("gomlxddp: Options.StaticGraph is for parameters that are marked several times in a step: a graph gives each gradient once")
	}
	if err := ddp.ShareError(ctx, opts.Group, err); err != nil {
		return err
	}
	o.root, o.opts, o.ctx = root, opts, ctx
	o.updates, o.inputs = map[string]*mlctx.Exec{}, map[int]*tensors.Tensor{}
	return nil
}

// sameOnAll checks that a number is the same on every rank: a collective.
func (o *Optimizer) sameOnAll(ctx context.Context, what string, n int) error {
	all, err := gather.JSON(ctx, o.opts.Group, n)
	if err != nil {
		return err
	}
	for rank := range all {
		if all[rank] != all[0] {
			return fmt.Errorf("gomlxddp, rank %d: %s is %d on rank 0 and %d on rank %d: call it alike on every rank, before Attach",
				o.opts.Group.Rank(), what, all[0], all[rank], rank)
		}
	}
	return nil
}

// random is the variable of the model's random numbers.
func (o *Optimizer) random() variable {
	return variable{o.root.GetVariableByScopeAndName(mlctx.RootScope, mlctx.RNGStateVariableName)}
}

// shareRandom gives this rank rank 0's random numbers, and returns its own: nil on rank 0.
func (o *Optimizer) shareRandom(ctx context.Context) (own *tensors.Tensor, err error) {
	if v := o.random(); v.Variable == nil || !v.HasValue() {
		err = o.root.ResetRNGState() // as the first use of random numbers would
	}
	if err == nil && o.opts.Group.Rank() > 0 {
		var value *tensors.Tensor
		if value, err = o.random().Value(); err == nil {
			own, err = value.LocalClone()
		}
	}
	if err := ddp.ShareError(ctx, o.opts.Group, err); err != nil {
		return nil, err
	}
	// As bytes: there are torches without uint64.
	return own, broadcast(ctx, o.opts.Group, 0, []variable{o.random()}, asBytes)
}

// UpdateGraph implements optimizers.Interface: the graph keeps its gradients for Sync. In the first
// one all ranks get rank 0's values, a collective, before it runs.
func (o *Optimizer) UpdateGraph(ctx *mlctx.Context, _ *graph.Graph, loss *graph.Node) {
	if !loss.IsScalar() {
		panic(fmt.Errorf("gomlxddp: the loss must be a scalar, and its shape is %s", loss.Shape()))
	}
	o.keepGradients(ctx, ctx.BuildTrainableVariablesGradientsGraph(loss), loss.DType(), false)
}

// UpdateGraphWithGradients implements train.OptimizeWithGradients, for gradients that were
// accumulated.
func (o *Optimizer) UpdateGraphWithGradients(ctx *mlctx.Context, grads []*graph.Node, lossDType dtypes.DType) {
	o.keepGradients(ctx, grads, lossDType, true)
}

// Clear implements optimizers.Interface.
func (o *Optimizer) Clear(ctx *mlctx.Context) error {
	return errors.Join(o.inner.Clear(ctx), ctx.InAbsPath(mlctx.ScopeSeparator+gradientScope).DeleteVariablesInScope())
}

// keepGradients, while a training graph is built, has it keep its gradients, and takes out of it
// what comes after an update.
func (o *Optimizer) keepGradients(ctx *mlctx.Context, grads []*graph.Node, loss dtypes.DType, accumulated bool) {
	var g *graph.Graph
	if len(grads) > 0 {
		g = grads[0].Graph()
	}
	switch {
	case o.root == nil:
		panic(errors.New("gomlxddp: the optimiser is not attached: call Attach (or Open) before the first step"))
	case g == nil:
		panic(errors.New("gomlxddp: the loss depends on no trainable variable"))
	case g.NumDevices() > 1:
		panic(fmt.Errorf("gomlxddp: a graph over %d devices: have a rank for each device", g.NumDevices()))
	}
	var trained []*mlctx.Variable
	for v := range ctx.IterVariables() {
		if v.Trainable && v.InUseByGraph(g) {
			trained = append(trained, v)
		}
	}
	if len(trained) != len(grads) {
		panic(fmt.Errorf("gomlxddp: %d gradients of %d trainable variables", len(grads), len(trained)))
	}
	if o.reducer == nil {
		if err := o.begin(ctx, g, accumulated); err != nil {
			panic(err)
		}
	}
	p := &plan{backend: g.Backend(), ctx: ctx, loss: loss, perStep: takePerStep(ctx, g)}
	kept := ctx.Checked(false).InAbsPath(mlctx.ScopeSeparator + gradientScope)
	for k, v := range trained {
		i, ok := o.index[v]
		if !ok {
			panic(fmt.Errorf("gomlxddp: %s is trained by this graph, and not by the first one: use all variables there, or make them before it and set Options.Unused to UnusedFind", v.ScopeAndName()))
		}
		scope := strings.TrimSuffix(mlctx.ScopeSeparator+gradientScope+v.Scope(), mlctx.ScopeSeparator)
		grad := kept.InAbsPath(scope).WithInitializer(initializers.Zero).VariableWithShape(v.Name(), v.Shape()).SetTrainable(false)
		grad.SetValueGraph(grads[k])
		p.grads = append(p.grads, gradient{i, variable{grad}})
	}
	slices.SortFunc(p.grads, func(a, b gradient) int { return cmp.Compare(a.param, b.param) })
	number := kept.VariableWithValue(planVariable, int64(-1)).SetTrainable(false)
	if o.plans == nil {
		o.done = number.MustValue() // not of a graph that has run
	}
	number.SetValueGraph(graph.Const(g, int64(len(o.plans))))
	o.plans = append(o.plans, p)
}

// takePerStep takes the functions that a graph shall run after the update out of it, where the
// update is not.
func takePerStep(ctx *mlctx.Context, g *graph.Graph) (list []perStep) {
	ctx.EnumerateGraphParams(g, func(scope, key string, value any) {
		if build, ok := value.(train.ContextGraphFn); ok && key == train.TrainerPerStepUpdateGraphFnParamKey {
			list = append(list, perStep{scope, build})
		}
	})
	for _, f := range list {
		ctx.InAbsPath(f.scope).SetGraphParam(g, train.TrainerPerStepUpdateGraphFnParamKey, nil)
	}
	slices.SortFunc(list, func(a, b perStep) int { return cmp.Compare(a.scope, b.scope) }) // they come from a map
	return list
}

// begin makes the Reducer for the variables of the first training graph and gives every rank rank
// 0's values: a collective.
func (o *Optimizer) begin(ctx *mlctx.Context, g *graph.Graph, accumulated bool) error {
	var trained, buffers []variable
	for v := range ctx.IterVariables() {
		switch inUse := v.InUseByGraph(g); {
		case ofTraining(v):
		case v.Trainable && (inUse || o.opts.Unused == ddp.UnusedFind):
			trained = append(trained, variable{v})
		case inUse:
			buffers = append(buffers, variable{v})
		}
	}
	sortByName(trained)
	params, err := newCopies(trained, asTorch)
	if err == nil {
		err = ctx.InitializeVariables(g.Backend(), nil)
	}
	if err == nil {
		err = params.read()
	}
	defer func() {
		if o.reducer == nil {
			params.Close()
		}
	}()
	if err := ddp.ShareError(o.ctx, o.opts.Group, err); err != nil {
		return err
	}
	reducer, err := ddp.NewReducer(o.ctx, params.list, o.opts)
	if err != nil {
		return err
	}
	if accumulated { // by the values as they are
		if err = ddp.VerifyValues(o.ctx, o.opts.Group, params.list); err != nil {
			err = fmt.Errorf("gomlxddp: gradients were accumulated by values that are not the same on every rank: call AccumulateGradients before Attach, set the same %s, or Broadcast: %w", mlctx.ParamInitialSeed, err)
		}
	} else if err = ddp.BroadcastParameters(o.ctx, o.opts.Group, params.list); err == nil {
		err = errors.Join(params.write(), broadcast(o.ctx, o.opts.Group, 0, buffers, asTorch))
	}
	if err != nil {
		reducer.Close()
		return err
	}
	o.params, o.buffers, o.reducer, o.index = params, buffers, reducer, map[*mlctx.Variable]int{}
	for i, v := range trained {
		o.index[v.Variable] = i
	}
	return nil
}

// ofTraining says whether a variable belongs to this rank's training and not to the model.
func ofTraining(v *mlctx.Variable) bool {
	if v.Name() == mlctx.RNGStateVariableName {
		return true
	}
	scopes := strings.Split(v.Scope(), mlctx.ScopeSeparator)
	return slices.ContainsFunc([]string{gradientScope, train.AccumulatedGradientsScope, metrics.Scope}, func(s string) bool { return slices.Contains(scopes, s) })
}

// pending returns the plan of the graph that has run since the last update, or nil.
func (o *Optimizer) pending() (*plan, error) {
	number := o.planNumber()
	if number == nil {
		return nil, nil
	}
	value, err := number.Value()
	if err != nil || value == o.done { // each run gives the variable another tensor
		return nil, err
	}
	index := tensors.ToScalar[int64](value)
	if index < 0 || index >= int64(len(o.plans)) {
		return nil, fmt.Errorf("gomlxddp: %s is %d", number.ScopeAndName(), index)
	}
	o.leaveOutOfCheckpoints()
	return o.plans[index], nil
}

func (o *Optimizer) planNumber() *mlctx.Variable {
	if o.plans == nil {
		return nil
	}
	return o.root.GetVariableByScopeAndName(mlctx.ScopeSeparator+gradientScope, planVariable)
}

// applied notes that the pending gradients were.
func (o *Optimizer) applied() (err error) {
	o.done, err = o.planNumber().Value()
	return err
}

// leaveOutOfCheckpoints has a checkpoints.Handler not save the gradients.
func (o *Optimizer) leaveOutOfCheckpoints() {
	handler, ok := o.root.Loader().(interface {
		ExcludeVarsFromSaving(...*mlctx.Variable)
	})
	if ok {
		handler.ExcludeVarsFromSaving(slices.Collect(o.root.InAbsPath(mlctx.ScopeSeparator + gradientScope).IterVariablesInScope())...)
	}
}

// update has the inner optimiser update the parameters by the gradients in the buckets.
func (o *Optimizer) update(p *plan, params []int) error {
	key := fmt.Sprintf("%p %v", p, params)
	exec := o.updates[key]
	if exec == nil {
		var err error
		if exec, err = mlctx.NewExec(p.backend, p.ctx.Checked(false), o.updateGraph(p, params)); err != nil {
			return err
		}
		o.updates[key] = exec
	}
	args := make([]any, len(params))
	for k, i := range params {
		if o.inputs[i] == nil {
			o.inputs[i] = tensors.FromShape(o.params.vars[i].Shape())
		}
		reduced, err := tensor.RawBytes(o.reducer.Gradient(i))
		if err == nil {
			err = writeTensor(o.inputs[i], reduced)
		}
		if err != nil {
			return fmt.Errorf("gomlxddp: the gradient of %s: %w", o.params.vars[i].name(), err)
		}
		args[k] = o.inputs[i]
	}
	_, err := exec.Exec(args...)
	return err
}

// updateGraph builds the graph of an update, and in the first one gives every rank rank 0's state of
// the inner optimiser: a collective.
func (o *Optimizer) updateGraph(p *plan, params []int) func(*mlctx.Context, []*graph.Node) []*graph.Node {
	return func(ctx *mlctx.Context, reduced []*graph.Node) []*graph.Node {
		g := reduced[0].Graph()
		ctx.SetTraining(g, true)
		byVariable := map[*mlctx.Variable]*graph.Node{}
		for k, i := range params {
			v := o.params.vars[i].Variable
			v.ValueGraph(g) // or the optimiser does not see it
			byVariable[v] = reduced[k]
		}
		var grads []*graph.Node
		for v := range ctx.IterVariables() {
			if grad, ok := byVariable[v]; ok {
				grads = append(grads, grad)
			}
		}
		err := catch(func() {
			o.inner.(train.OptimizeWithGradients).UpdateGraphWithGradients(ctx, grads, p.loss)
		})
		for _, f := range p.perStep {
			if err == nil {
				if err = catch(func() { f.build(ctx.InAbsPath(f.scope), g) }); err != nil {
					err = fmt.Errorf("gomlxddp: the function of AddPerStepUpdateGraphFn in scope %s, in the graph of the update: %w", f.scope, err)
				}
			}
		}
		if o.state == nil {
			err = o.shareState(ctx, g, err)
		}
		if err != nil {
			panic(err)
		}
		return nil
	}
}

// shareState gives every rank rank 0's values of the variables that only the update uses.
func (o *Optimizer) shareState(ctx *mlctx.Context, g *graph.Graph, err error) error {
	if err == nil {
		err = ctx.InitializeVariables(g.Backend(), nil)
	}
	if err := ddp.ShareError(o.ctx, o.opts.Group, err); err != nil {
		return err
	}
	o.state = []variable{}
	for v := range ctx.IterVariables() {
		if v.InUseByGraph(g) && !v.Trainable && !ofTraining(v) {
			o.state = append(o.state, variable{v})
		}
	}
	return broadcast(o.ctx, o.opts.Group, 0, o.state, asTorch)
}

// catch returns the error that GoMLX panics with while a graph is built.
func catch(build func()) (err error) {
	defer func() {
		switch e := recover().(type) {
		case nil:
		case error:
			err = e
		default:
			panic(e)
		}
	}()
	build()
	return nil
}

// Broadcast gives every rank rank 0's values of all variables that have one, but random numbers,
// metrics and gradients: a collective. It is for what was loaded or changed before Attach or between
// two steps. Ranks with other variables than rank 0 are an error by name on every rank.
func Broadcast(ctx context.Context, group c10d.ProcessGroup, root *mlctx.Context) error {
	var list []variable
	for v := range root.IterVariables() {
		if v.HasValue() && !ofTraining(v) {
			list = append(list, variable{v})
		}
	}
	return broadcast(ctx, group, 0, list, asTorch)
}

// trained are the variables that Digest compares.
func (o *Optimizer) trained() (list []variable) {
	if o.params != nil {
		return o.params.vars
	}
	for v := range o.root.IterVariables() {
		if v.Trainable && v.HasValue() && !ofTraining(v) {
			list = append(list, variable{v})
		}
	}
	return list
}

// variable is GoMLX's.
type variable struct{ *mlctx.Variable }

func (v variable) name() string { return v.ScopeAndName() }

func (v variable) dims() []int64 {
	dims := make([]int64, v.Shape().Rank())
	for k, n := range v.Shape().Dimensions {
		dims[k] = int64(n)
	}
	return dims
}

func (v variable) dtype() (tensor.DType, error) {
	if d, ok := torchDTypes[v.DType()]; ok {
		return d, nil
	}
	return tensor.Invalid, fmt.Errorf("its dtype %s has no counterpart in torch here", v.DType())
}

var torchDTypes = map[dtypes.DType]tensor.DType{
	dtypes.Float64: tensor.Float64, dtypes.Float32: tensor.Float32, dtypes.Float16: tensor.Float16, dtypes.BFloat16: tensor.BFloat16,
	dtypes.Complex128: tensor.Complex128, dtypes.Complex64: tensor.Complex64, dtypes.Bool: tensor.Bool,
	dtypes.Int64: tensor.Int64, dtypes.Int32: tensor.Int32, dtypes.Int16: tensor.Int16, dtypes.Int8: tensor.Int8,
	dtypes.Uint64: tensor.UInt64, dtypes.Uint32: tensor.UInt32, dtypes.Uint16: tensor.UInt16, dtypes.Uint8: tensor.UInt8,
}

// read copies the value, from wherever it is now.
func (v variable) read(to []byte) error {
	value, err := v.Value()
	if err != nil || len(to) == 0 {
		return err
	}
	n := 0
	err = value.ConstBytes(func(data []byte) { n = len(data); copy(to, data) })
	return errors.Join(err, sameLength(n, len(to)))
}

// write gives the variable another value.
func (v variable) write(from []byte) error {
	value := tensors.FromShape(v.Shape())
	if err := writeTensor(value, from); err != nil {
		return err
	}
	return v.SetValue(value)
}

func writeTensor(t *tensors.Tensor, from []byte) error {
	if len(from) == 0 {
		return nil
	}
	n := 0
	err := t.MutableBytes(func(data []byte) { n = len(data); copy(data, from) })
	return errors.Join(err, sameLength(n, len(from)))
}

func sameLength(got, want int) error {
	if got != want {
		return fmt.Errorf("%d bytes, and not %d", got, want)
	}
	return nil
}

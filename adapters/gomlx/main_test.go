package gomlxddp_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/gomlx/gomlx/backends"
	"github.com/gomlx/gomlx/backends/simplego"
	"github.com/gomlx/gomlx/pkg/core/dtypes"
	. "github.com/gomlx/gomlx/pkg/core/graph"
	"github.com/gomlx/gomlx/pkg/core/shapes"
	"github.com/gomlx/gomlx/pkg/core/tensors"
	mlctx "github.com/gomlx/gomlx/pkg/ml/context"
	"github.com/gomlx/gomlx/pkg/ml/layers"
	"github.com/gomlx/gomlx/pkg/ml/train"
	"github.com/gomlx/gomlx/pkg/ml/train/losses"
	"github.com/gomlx/gomlx/pkg/ml/train/optimizers"
	"github.com/stretchr/testify/require"

	gomlxddp "pyhook/adapters/gomlx"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tests/ranks"
	"pyhook/tests/stock"
)

func TestMain(m *testing.M) {
	ranks.Main(m, map[string]ranks.Func{"hooks": stock.Ranks(trainNoting)})
}

func allWell(t *testing.T, errs []error) {
	t.Helper()
	require.NoError(t, errors.Join(errs...))
}

const (
	batch, inputs, hidden, outputs = 5, 4, 6, 3
)

// backend is shared by all trainers.
var backend = sync.OnceValue(func() backends.Backend {
	b, err := simplego.New("ops_sequential") // the race detector finds races in its parallel execution (v0.26.0)
	if err != nil {
		panic(err)
	}
	return b
})

// net is a model with its trainer.
type net struct {
	dtype   dtypes.DType
	dropout float64
	vectors bool                                      // scale is one: PowerSGD has no scalars
	extra   func(ctx *mlctx.Context, out *Node) *Node // nil: none
	ctx     *mlctx.Context
	trainer *train.Trainer
	loop    *train.Loop
	opt     *gomlxddp.Optimizer // nil in the stock one
}

// newNet makes a net whose values will be those of a seed.
func newNet(seed int64, inner optimizers.Interface, wrapped bool, change func(*net)) *net {
	n := &net{dtype: dtypes.Float32, ctx: mlctx.New()}
	n.ctx.SetParam(mlctx.ParamInitialSeed, seed)
	if change != nil {
		change(n)
	}
	if wrapped {
		n.opt = gomlxddp.Wrap(inner)
		inner = n.opt
	}
	n.trainer = train.NewTrainer(backend(), n.ctx, n.model, losses.MeanSquaredError, inner, nil, nil)
	return n
}

func (n *net) newLoop() *train.Loop {
	n.loop = train.NewLoop(n.trainer)
	return n.loop
}

// attach makes the loop.
func (n *net) attach(ctx context.Context, opts ddp.Options) error {
	return n.opt.Attach(ctx, n.newLoop(), opts)
}

func (n *net) model(ctx *mlctx.Context, _ any, in []*Node) []*Node {
	g := in[0].Graph()
	linear := func(name string, x *Node, from, to int) *Node {
		ctx := ctx.In(name)
		w := ctx.VariableWithShape("weights", shapes.Make(n.dtype, from, to)).ValueGraph(g)
		b := ctx.VariableWithShape("biases", shapes.Make(n.dtype, to)).ValueGraph(g)
		return Add(Dot(x, w), InsertAxes(b, 0))
	}
	x := Tanh(linear("hidden", in[0], inputs, hidden))
	if n.dropout > 0 {
		x = layers.Dropout(ctx, x, Scalar(g, n.dtype, n.dropout))
	}
	frozen := ctx.VariableWithShape("frozen", shapes.Make(n.dtype, 1, hidden)).SetTrainable(false)
	x = Add(x, frozen.ValueGraph(g))
	start := shapes.CastAsDType(1.5, n.dtype)
	if n.vectors {
		start = []float32{1.5}
	}
	scale := Reshape(ctx.VariableWithValue("scale", start).ValueGraph(g))
	out := Mul(linear("out", x, hidden, outputs), scale)
	if n.extra != nil {
		out = n.extra(ctx, out)
	}
	return []*Node{out}
}

// data is a dataset of the batches of some seeds.
type data struct {
	dtype dtypes.DType
	seeds []uint64
	at    int
}

func (d *data) Name() string { return "data" }
func (d *data) Reset()       { d.at = 0 }
func (d *data) Yield() (spec any, x, y []*tensors.Tensor, err error) {
	if d.at == len(d.seeds) {
		return nil, nil, nil, io.EOF
	}
	d.at++
	random := rand.New(rand.NewPCG(d.seeds[d.at-1], 2))
	return nil, []*tensors.Tensor{normal(random, d.dtype, inputs)}, []*tensors.Tensor{normal(random, d.dtype, outputs)}, nil
}

func normal(random *rand.Rand, dtype dtypes.DType, columns int) *tensors.Tensor {
	values := make([]float64, batch*columns)
	for k := range values {
		values[k] = random.NormFloat64()
	}
	if dtype == dtypes.Float64 {
		return tensors.FromFlatDataAndDimensions(values, batch, columns)
	}
	singles := make([]float32, len(values))
	for k, v := range values {
		singles[k] = float32(v)
	}
	return tensors.FromFlatDataAndDimensions(singles, batch, columns)
}

// samples of a rank from a step on.
func samples(rank, from, steps int) *data {
	d := &data{dtype: dtypes.Float32}
	for step := from; step < from+steps; step++ {
		d.seeds = append(d.seeds, uint64(100+10*step+rank))
	}
	return d
}

// values are copies of the values of all variables but the adapter's and metrics' (whose names are
// other ones in each run), by name.
func values(ctx *mlctx.Context) map[string]any {
	list := map[string]any{}
	for v := range ctx.IterVariables() {
		if name := v.ScopeAndName(); v.HasValue() && !strings.HasPrefix(name, "/ddp_grads") && !strings.HasPrefix(name, "/metrics") {
			list[name] = v.MustValue().Value()
		}
	}
	return list
}

// elements are copies of those of the trained variables, which are sorted by name.
func elements[T dtypes.Supported](n *net) (list [][]T) {
	for _, name := range trained {
		scope, name := mlctx.SplitScope(name)
		list = append(list, tensors.MustCopyFlatData[T](n.ctx.GetVariableByScopeAndName(scope, name).MustValue()))
	}
	return list
}

var trained = []string{"/hidden/biases", "/hidden/weights", "/out/biases", "/out/weights", "/scale"}

func (n *net) run(d train.Dataset, steps int) error {
	_, err := n.loop.RunSteps(d, steps)
	return err
}

func wrap(inner optimizers.Interface) *gomlxddp.Optimizer { return gomlxddp.Wrap(inner) }

func broadcastAll(t *testing.T, group *memgroup.Group, ctx *mlctx.Context) error {
	return gomlxddp.Broadcast(testutil.Soon(t), group, ctx)
}

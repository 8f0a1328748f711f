package ddp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/ranks"
)

// sparseFacts are what stock DDP did on a rank.
type sparseFacts struct {
	Torch   string
	Error   string
	First   int // bytes
	Orders  [][]int
	Logging map[string]any
}

// sparseReport is what Go did on a rank.
type sparseReport struct {
	Error   string
	Logging ddp.LoggingData
}

func reduceSparse(ctx context.Context, rank *ranks.Rank) error {
	var todo batch[*sparseCase]
	rt, world, err := startRank(ctx, rank, &todo, &todo.Python)
	if err != nil {
		return err
	}
	for _, c := range todo.Cases {
		m := &sparseModel{sparseCase: c, rank: world.Rank()}
		if err := m.run(ctx, rt, world, todo.Folder); err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
		if c.Hook == "fp16" {
			continue // gloo's barrier fails with what a collective before it did
		}
		if err := world.Barrier(ctx); err != nil {
			return err
		}
	}
	return nil
}

// sparseModel is a case with its reducer and the trainer's own gradients.
type sparseModel struct {
	*sparseCase
	rank    int
	params  []*c10d.Parameter
	dense   []*tensor.Tensor // the trainer's own, of the dense ones
	rows    []*given         // of NoSync's step
	reducer *ddp.Reducer
}

func (m *sparseModel) run(ctx context.Context, rt *pyhook.Runtime, world *pyhook.TorchGroup, folder string) error {
	var stock sparseFacts
	text, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("stock.%s.rank%d.json", m.Name, m.rank)))
	if err == nil {
		err = json.Unmarshal(text, &stock)
	}
	if err != nil {
		return err
	}
	name := m.Hook
	if name == "summed" {
		if name, err = filepath.Abs(filepath.Join("testdata", "sparse.py")); err != nil {
			return err
		}
		name += ":buckets_summed"
	}
	hook, closeHook, err := newHook(rt, world, name)
	if err != nil {
		return err
	}
	defer closeHook()
	opts := ddp.Options{Group: world, Hook: hook, Layout: ddp.LayoutRebuilt, StaticGraph: m.Static,
		BucketCapMB: float64(m.Cap) / (1 << 20), FirstBucketMB: float64(stock.First) / (1 << 20)}
	if m.Find {
		opts.Unused = ddp.UnusedFind
	}
	defer m.close()
	if err := m.open(ctx, opts); err != nil {
		return err
	}
	var out bytes.Buffer
	var report sparseReport
	for step := range sparseSteps {
		err := m.step(ctx, step, stock.Orders, &out)
		if err != nil && m.Hook != "fp16" {
			return fmt.Errorf("step %d: %w", step, err)
		}
		if err != nil {
			report.Error = err.Error()
			break
		}
	}
	report.Logging = m.reducer.LoggingData()
	if text, err = json.Marshal(report); err != nil {
		return err
	}
	base := filepath.Join(folder, fmt.Sprintf("go.%s.rank%d", m.Name, m.rank))
	if err := os.WriteFile(base+".json", text, 0o600); err != nil {
		return err
	}
	return os.WriteFile(base+".bin", out.Bytes(), 0o600)
}

func (m *sparseModel) open(ctx context.Context, opts ddp.Options) (err error) {
	m.dense, m.rows = make([]*tensor.Tensor, len(m.Params)), make([]*given, len(m.Params))
	for i, p := range m.Params {
		dtype, err := tensor.ParseDType(p.DType)
		if err != nil {
			return err
		}
		if !p.Sparse {
			if m.dense[i], err = tensor.New(dtype, p.Shape...); err != nil {
				return err
			}
		}
		m.params = append(m.params, &c10d.Parameter{Name: fmt.Sprint("p", i), Shape: p.Shape, DType: dtype, Sparse: p.Sparse})
	}
	m.reducer, err = ddp.NewReducer(ctx, m.params, opts)
	return err
}

func (m *sparseModel) close() {
	if m.reducer != nil {
		m.reducer.Close()
	}
	for i, p := range m.params {
		p.Close()
		m.dense[i].Close()
	}
}

// step is a backward pass, in stock DDP's order, and the reduction.
func (m *sparseModel) step(ctx context.Context, step int, orders [][]int, out *bytes.Buffer) error {
	backward := func() error {
		for i, g := range m.Steps[m.rank][step] {
			if g == nil {
				if err := m.reducer.MarkUnusedInto(i, m.dense[i]); err != nil {
					return err
				}
			}
		}
		for _, i := range orders[step] {
			if err := m.ready(step, i, m.Steps[m.rank][step][i]); err != nil {
				return err
			}
		}
		return nil
	}
	if step == m.NoSync {
		return m.reducer.NoSync(backward)
	}
	if err := backward(); err != nil {
		return err
	}
	if _, err := m.reducer.Wait(ctx); err != nil {
		return err
	}
	return m.write(step, out)
}

// inBucket says whether a step's dense gradients are written to the bucket.
func (m *sparseModel) inBucket(step int) bool { return m.View && step > 0 }

func (m *sparseModel) gradient(step, i int) *tensor.Tensor {
	if m.inBucket(step) {
		return m.reducer.Gradient(i)
	}
	return m.dense[i]
}

func (m *sparseModel) ready(step, i int, g *given) error {
	adds := m.NoSync >= 0 && step == m.NoSync+1
	if !m.Params[i].Sparse {
		to := m.gradient(step, i)
		if err := setFloats(to, g.Values, adds); err != nil {
			return err
		}
		if m.inBucket(step) {
			return m.reducer.Ready(i)
		}
		return m.reducer.ReadyFrom(i, to)
	}
	if adds {
		g = &given{slices.Concat(m.rows[i].Rows, g.Rows), slices.Concat(m.rows[i].Values, g.Values)}
	}
	m.rows[i] = g
	sparse, err := c10d.NewSparseGradient(m.params[i], 1, int64(len(g.Rows)))
	if err != nil {
		return err
	}
	defer sparse.Close() // the reducer keeps the memory
	indices, err := tensor.Slice[int64](sparse.Indices)
	if err != nil {
		return err
	}
	copy(indices, g.Rows)
	if err := setFloats(sparse.Values, g.Values, false); err != nil {
		return err
	}
	return m.reducer.ReadySparse(i, sparse)
}

func (m *sparseModel) write(step int, out *bytes.Buffer) error {
	for i, p := range m.Params {
		list := []*tensor.Tensor{m.gradient(step, i)}
		if p.Sparse {
			g := m.reducer.SparseGradient(i)
			list = []*tensor.Tensor{g.Indices, g.Values}
		}
		for _, t := range list {
			data, err := tensor.RawBytes(t)
			if err != nil {
				return err
			}
			out.Write(data)
		}
	}
	return nil
}

// setFloats sets t to values, or adds them.
func setFloats(t *tensor.Tensor, values []float64, adds bool) error {
	if t.DType() == tensor.Float64 {
		return setSlice[float64](t, values, adds)
	}
	return setSlice[float32](t, values, adds)
}

func setSlice[T float32 | float64](t *tensor.Tensor, values []float64, adds bool) error {
	to, err := tensor.Slice[T](t)
	if err != nil {
		return err
	}
	for k, x := range values {
		if !adds {
			to[k] = 0
		}
		to[k] += T(x)
	}
	return nil
}

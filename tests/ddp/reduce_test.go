package ddp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/ranks"
	"pyhook/tests/ranks/rankpython"
)

// facts are what stock DDP did on a rank.
type facts struct {
	Torch  string
	First  int     // bytes
	Orders [][]int // by step: parameters in the order in which they were ready
	Sizes  [][]int // by step: elements of the buckets, with a hook
}

// none is every byte of a gradient that no rank had.
const none = 0xAA

func reduceAll(ctx context.Context, rank *ranks.Rank) error {
	var todo batch[*modelCase]
	rt, world, err := startRank(ctx, rank, &todo, &todo.Python)
	if err != nil {
		return err
	}
	for _, c := range todo.Cases {
		if err := reduceCase(ctx, rt, world, todo.Folder, c); err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	if err := world.Barrier(ctx); err != nil {
		return err
	}
	return rankpython.Leave(rt, world)
}

func reduceCase(ctx context.Context, rt *pyhook.Runtime, world *pyhook.TorchGroup, folder string, c *modelCase) error {
	var stock facts
	text, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("stock.%s.rank%d.json", c.Name, world.Rank())))
	if err == nil {
		err = json.Unmarshal(text, &stock)
	}
	if err != nil {
		return err
	}
	input, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("in.%s.rank%d.bin", c.Model, world.Rank())))
	if err != nil {
		return err
	}
	hook, closeHook, err := newHook(rt, world, c.Hook)
	if err != nil {
		return err
	}
	defer closeHook()
	m := &model{modelCase: c, input: input, rank: world.Rank()}
	defer m.close()
	opts := ddp.Options{Group: world, Hook: hook, Layout: ddp.LayoutRebuilt, StaticGraph: c.Static,
		BucketCapMB: float64(c.Cap) / (1 << 20), FirstBucketMB: float64(stock.First) / (1 << 20)}
	if c.Find {
		opts.Unused = ddp.UnusedFind
	}
	if err := m.open(ctx, opts); err != nil {
		return err
	}
	var out bytes.Buffer
	var sizes [][]int
	for step := range steps {
		sizes = append(sizes, m.bucketSizes(step))
		run := func() error { return m.step(ctx, step, stock.Orders[step]) }
		if step == c.NoSync {
			err = m.reducer.NoSync(run)
		} else {
			err = run()
		}
		if err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		if err := m.write(&out, step); err != nil {
			return err
		}
	}
	text, err = json.Marshal(sizes)
	if err != nil {
		return err
	}
	base := filepath.Join(folder, fmt.Sprintf("go.%s.rank%d", c.Name, world.Rank()))
	if err := os.WriteFile(base+".json", text, 0o600); err != nil {
		return err
	}
	return os.WriteFile(base+".bin", out.Bytes(), 0o600)
}

func newHook(rt *pyhook.Runtime, world *pyhook.TorchGroup, name string) (hook c10d.CommHook, free func(), err error) {
	switch name {
	case "none":
		return nil, func() {}, nil
	case "powersgd":
		state, err := rt.NewState(context.Background(), name, map[string]any{"matrix_approximation_rank": 2, "start_powerSGD_iter": 2, "min_compression_rate": 1}, nil)
		if err != nil {
			return nil, nil, err
		}
		h, err := rt.NewHook(context.Background(), name, pyhook.HookConfig{State: state})
		if err != nil {
			state.Close()
			return nil, nil, err
		}
		return h, func() { h.Close(); state.Close() }, nil
	}
	h, err := rt.NewHook(context.Background(), name, pyhook.HookConfig{})
	if err != nil {
		return nil, nil, err
	}
	return h, h.Close, nil
}

// model is a case with its reducer and the trainer's own gradients.
type model struct {
	*modelCase
	rank    int
	input   []byte // not read yet
	params  []*c10d.Parameter
	own     []*tensor.Tensor
	reducer *ddp.Reducer
}

func (m *model) open(ctx context.Context, opts ddp.Options) error {
	for i, p := range m.Params {
		dtype, err := tensor.ParseDType(p.DType)
		if err != nil {
			return err
		}
		own, err := tensor.New(dtype, p.Shape...)
		if err != nil {
			return err
		}
		m.own = append(m.own, own)
		m.params = append(m.params, &c10d.Parameter{Name: fmt.Sprint("p", i), Shape: p.Shape, DType: dtype})
	}
	var err error
	m.reducer, err = ddp.NewReducer(ctx, m.params, opts)
	return err
}

func (m *model) close() {
	if m.reducer != nil {
		m.reducer.Close()
	}
	for _, p := range m.params {
		p.Close()
	}
	for _, t := range m.own {
		t.Close()
	}
}

func (m *model) bucketSizes(step int) []int {
	sizes := []int{}
	if step == m.NoSync {
		return sizes
	}
	for _, bucket := range m.reducer.Buckets() {
		n := 0
		for _, i := range bucket {
			n += m.Params[i].elements()
		}
		sizes = append(sizes, n)
	}
	return sizes
}

// inBucket says whether stock DDP's gradients of a step are in the bucket from
// the start: it makes them so in the first step.
func (m *model) inBucket(step int) bool { return m.View && step > 0 }

// adds says whether a step's gradient comes on top of the one before.
func (m *model) adds(step, i int) bool {
	return m.NoSync >= 0 && step-1 == m.NoSync && m.Used[m.rank][m.NoSync][i] > 0
}

// step is a backward pass in this order and the reduction.
func (m *model) step(ctx context.Context, step int, order []int) error {
	used := m.Used[m.rank][step]
	for i := range m.Params {
		g := m.own[i]
		if m.inBucket(step) {
			g = m.reducer.Gradient(i)
		}
		if err := m.accumulate(g, i, used[i], m.adds(step, i)); err != nil {
			return err
		}
		var err error
		switch {
		case used[i] == 0 && i%2 == 0: // the others are found
			err = m.reducer.MarkUnusedInto(i, g)
		case used[i] == 2 && m.Static && step != m.NoSync: // its second mark is in order
			err = m.ready(step, i)
		}
		if err != nil {
			return err
		}
	}
	for _, i := range order {
		if err := m.ready(step, i); err != nil {
			return err
		}
	}
	_, err := m.reducer.Wait(ctx)
	return err
}

func (m *model) ready(step, i int) error {
	if m.inBucket(step) {
		return m.reducer.Ready(i)
	}
	return m.reducer.ReadyFrom(i, m.own[i])
}

// write writes the reduced gradients.
func (m *model) write(out *bytes.Buffer, step int) error {
	for i, p := range m.Params {
		g, missing := m.own[i], !m.reducer.Used(i)
		used := m.Used[m.rank][step][i] > 0
		switch {
		case step == m.NoSync:
			missing = !used
			if m.inBucket(step) {
				g = m.reducer.Gradient(i)
			}
		case m.inBucket(step) || !used && i%2 == 1:
			g = m.reducer.Gradient(i)
		}
		if missing {
			out.Write(bytes.Repeat([]byte{none}, p.Bytes))
			continue
		}
		data, err := tensor.RawBytes(g)
		if err != nil {
			return err
		}
		out.Write(data)
	}
	return nil
}

// accumulate reads a parameter's gradients, of each use, and sets or adds their
// sum to g: autograd adds up the uses before it adds to what there is.
func (m *model) accumulate(g *tensor.Tensor, i, uses int, adds bool) error {
	sum, err := tensor.New(g.DType(), g.Shape()...)
	if err != nil {
		return err
	}
	defer sum.Close()
	for use := range uses {
		size := m.Params[i].Bytes
		if err := add(sum, m.input[:size], use == 0); err != nil {
			return err
		}
		m.input = m.input[size:]
	}
	if uses == 0 {
		return nil
	}
	data, err := tensor.RawBytes(sum)
	if err != nil {
		return err
	}
	return add(g, data, !adds)
}

// add adds elements to t, or sets it to them first.
func add(t *tensor.Tensor, data []byte, set bool) error {
	raw, err := tensor.RawBytes(t)
	if err != nil {
		return err
	}
	if set {
		copy(raw, data)
		return nil
	}
	other, err := tensor.New(t.DType(), t.Len())
	if err != nil {
		return err
	}
	defer other.Close()
	bytesOf, err := tensor.RawBytes(other)
	if err != nil {
		return err
	}
	copy(bytesOf, data)
	if t.DType() == tensor.Float64 {
		return addSlices[float64](t, other)
	}
	return addSlices[float32](t, other)
}

func addSlices[T float32 | float64](t, other *tensor.Tensor) error {
	a, err := tensor.Slice[T](t)
	if err != nil {
		return err
	}
	b, err := tensor.Slice[T](other)
	if err != nil {
		return err
	}
	for i := range a {
		a[i] += b[i]
	}
	return nil
}

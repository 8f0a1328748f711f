package ddp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/ranks"
	"pyhook/tests/ranks/rankpython"
)

func reduceHooked(ctx context.Context, rank *ranks.Rank) error {
	var todo batch[*hookedCase]
	rt, world, err := startRank(ctx, rank, &todo, &todo.Python)
	if err != nil {
		return err
	}
	for _, c := range todo.Cases {
		m := &hookedModel{hookedCase: c}
		var report hookedReport
		out, err := m.run(ctx, rt, world, todo.Folder)
		if err != nil {
			report.Error, report.Complex = err.Error(), errors.Is(err, c10d.ErrComplex)
		}
		text, err := json.Marshal(report)
		if err != nil {
			return err
		}
		base := filepath.Join(todo.Folder, fmt.Sprintf("go.%s.rank%d", c.Name, world.Rank()))
		if err := errors.Join(os.WriteFile(base+".json", text, 0o600), os.WriteFile(base+".bin", out, 0o600)); err != nil {
			return err
		}
	}
	if err := world.Barrier(ctx); err != nil {
		return err
	}
	return rankpython.Leave(rt, world)
}

// hookedModel is a case with its weights, gradients and reducer.
type hookedModel struct {
	*hookedCase
	params  []*c10d.Parameter
	own     []*tensor.Tensor // the trainer's gradients
	reducer *ddp.Reducer
}

func (m *hookedModel) hook(rt *pyhook.Runtime, world *pyhook.TorchGroup) (c10d.CommHook, func(), error) {
	switch m.Hook {
	case "go":
		return &hooks.AllReduceCommHook{Group: world}, func() {}, nil
	case "go_fp16":
		return &hooks.FP16CompressCommHook{Group: world}, func() {}, nil
	case "updates", "by_norm", "doubled":
		path, err := filepath.Abs(filepath.Join("testdata", "hooked.py"))
		if err != nil {
			return nil, nil, err
		}
		return newHook(rt, world, path+":"+m.Hook)
	}
	return newHook(rt, world, m.Hook)
}

// run returns the gradients and weights after each step.
func (m *hookedModel) run(ctx context.Context, rt *pyhook.Runtime, world *pyhook.TorchGroup, folder string) (out []byte, err error) {
	data, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("in.%s.rank%d.bin", m.Name, world.Rank())))
	if err != nil {
		return nil, err
	}
	hook, closeHook, err := m.hook(rt, world)
	if err != nil {
		return nil, err
	}
	defer closeHook()
	defer m.close()
	if data, err = m.open(data); err != nil {
		return nil, err
	}
	cap := float64(m.Cap) / (1 << 20)
	m.reducer, err = ddp.NewReducer(ctx, m.params, ddp.Options{Group: world, Hook: hook, BucketCapMB: cap, FirstBucketMB: cap})
	if err != nil {
		return nil, err
	}
	for step := range m.Steps {
		if data, err = m.step(ctx, step, data); err != nil {
			return nil, fmt.Errorf("step %d: %w", step, err)
		}
		for i := range m.params {
			if out, err = appendBytes(out, m.gradient(step, i)); err != nil {
				return nil, err
			}
		}
		for _, p := range m.params {
			if out, err = appendBytes(out, p.Data); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// open makes the parameters, with the weights off the front of data.
func (m *hookedModel) open(data []byte) ([]byte, error) {
	for i, p := range m.Params {
		dtype, err := tensor.ParseDType(p.DType)
		if err != nil {
			return nil, err
		}
		weights, err := tensor.New(dtype, p.Shape...)
		if err != nil {
			return nil, err
		}
		own, err := tensor.New(dtype, p.Shape...)
		if err != nil {
			return nil, err
		}
		m.own = append(m.own, own)
		m.params = append(m.params, &c10d.Parameter{Name: fmt.Sprint("p", i), Shape: p.Shape, DType: dtype, Data: weights})
		if data, err = fillBytes(weights, data); err != nil {
			return nil, err
		}
	}
	return data, nil
}

func (m *hookedModel) close() {
	if m.reducer != nil {
		m.reducer.Close()
	}
	for i, p := range m.params {
		p.Close()
		p.Data.Close()
		m.own[i].Close()
	}
}

func (m *hookedModel) gradient(step, i int) *tensor.Tensor {
	if m.View && step > 0 {
		return m.reducer.Gradient(i)
	}
	return m.own[i]
}

func (m *hookedModel) step(ctx context.Context, step int, data []byte) (rest []byte, err error) {
	for i := range m.params {
		if data, err = fillBytes(m.gradient(step, i), data); err != nil {
			return nil, err
		}
	}
	for i := range m.params {
		if m.View && step > 0 {
			err = m.reducer.Ready(i)
		} else {
			err = m.reducer.ReadyFrom(i, m.own[i])
		}
		if err != nil {
			return nil, err
		}
	}
	_, err = m.reducer.Wait(ctx)
	return data, err
}

func fillBytes(t *tensor.Tensor, data []byte) (rest []byte, err error) {
	raw, err := tensor.RawBytes(t)
	if err != nil {
		return nil, err
	}
	return data[copy(raw, data):], nil
}

func appendBytes(out []byte, t *tensor.Tensor) ([]byte, error) {
	raw, err := tensor.RawBytes(t)
	return append(out, raw...), err
}

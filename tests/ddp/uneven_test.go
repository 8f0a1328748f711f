package ddp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/ranks"
	"pyhook/tests/ranks/rankpython"
)

// unevenJob is what the ranks run, once with stock DDP and once with ours.
type unevenJob struct {
	Python string
	Hooks  []string
	Steps  []int // by rank
}

const unevenCap = 8 * 8 * 4 // bytes: several buckets

var unevenShapes = [][]int64{{8, 8}, {8}, {16, 8}, {8, 8}, {3}}

// unevenReport says which gradients of a rank differ.
type unevenReport struct {
	Compared  int // tensors
	Differing []string
	Buckets   int
	Last      int
}

func unevenRank(ctx context.Context, rank *ranks.Rank) error {
	var job unevenJob
	rt, world, err := startRank(ctx, rank, &job, &job.Python)
	if err != nil {
		return err
	}
	grads, err := unevenGradients(rank.Rank, job.Steps[rank.Rank])
	if err != nil {
		return err
	}
	var report unevenReport
	for _, hook := range job.Hooks {
		if err := report.compare(ctx, rt, world, hook, grads); err != nil {
			return fmt.Errorf("%s: %w", hook, err)
		}
	}
	return errors.Join(rank.Report(report), rankpython.Leave(rt, world))
}

func unevenGradients(rank, steps int) ([][]*tensor.Tensor, error) {
	random := rand.New(rand.NewPCG(uint64(rank), 7))
	all := make([][]*tensor.Tensor, steps)
	for step := range all {
		for _, shape := range unevenShapes {
			t, err := tensor.New(tensor.Float32, shape...)
			if err != nil {
				return nil, err
			}
			values, err := tensor.Slice[float32](t)
			if err != nil {
				return nil, err
			}
			for i := range values {
				values[i] = float32(random.NormFloat64())
			}
			all[step] = append(all[step], t)
		}
	}
	return all, nil
}

// compare trains with stock DDP, then with ours, and compares bit by bit.
func (report *unevenReport) compare(ctx context.Context, rt *pyhook.Runtime, world *pyhook.TorchGroup, name string, grads [][]*tensor.Tensor) error {
	stock, err := stockUneven(rt, name, grads)
	if err != nil {
		return err
	}
	defer stock.Close()
	hook, closeHook, err := newHook(rt, world, name)
	if err != nil {
		return err
	}
	defer closeHook()
	var params []*c10d.Parameter
	for i, shape := range unevenShapes {
		params = append(params, &c10d.Parameter{Name: fmt.Sprint("p", i), Shape: shape, DType: tensor.Float32})
		defer params[i].Close()
	}
	mb := float64(unevenCap) / (1 << 20)
	r, err := ddp.NewReducer(ctx, params, ddp.Options{Group: world, Hook: hook, Join: true, Layout: ddp.LayoutRebuilt, BucketCapMB: mb, FirstBucketMB: mb})
	if err != nil {
		return err
	}
	defer r.Close()
	for step, tensors := range grads {
		if err := unevenStep(ctx, r, tensors); err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		for i := range tensors {
			same, err := sameAsStock(stock, step, i, r.Gradient(i))
			if err != nil {
				return err
			}
			if report.Compared++; !same {
				report.Differing = append(report.Differing, fmt.Sprintf("%s: step %d, parameter %d", name, step, i))
			}
		}
	}
	report.Buckets = len(r.Buckets())
	report.Last, err = r.Join(ctx)
	return err
}

// stockUneven returns stock DDP's gradients, by step and parameter.
func stockUneven(rt *pyhook.Runtime, hook string, grads [][]*tensor.Tensor) (*pyhook.Object, error) {
	module, err := rt.Import(context.Background(), "uneven")
	if err != nil {
		return nil, err
	}
	defer module.Close()
	steps := make([]any, len(grads))
	for i, step := range grads {
		tensors := make([]any, len(step))
		for k, t := range step {
			tensors[k] = t
		}
		steps[i] = tensors
	}
	return module.Call("train", steps, hook, unevenCap)
}

func unevenStep(ctx context.Context, r *ddp.Reducer, grads []*tensor.Tensor) error {
	for i := len(grads) - 1; i >= 0; i-- {
		if err := tensor.Copy(r.Gradient(i), grads[i]); err != nil {
			return err
		}
		if err := r.Ready(i); err != nil {
			return err
		}
	}
	_, err := r.Wait(ctx)
	return err
}

// sameAsStock compares with stock[step][i], bit by bit.
func sameAsStock(stock *pyhook.Object, step, i int, ours *tensor.Tensor) (bool, error) {
	tensors, err := stock.Call("__getitem__", step)
	if err != nil {
		return false, err
	}
	defer tensors.Close()
	theirs, err := tensors.Call("__getitem__", i)
	if err != nil {
		return false, err
	}
	defer theirs.Close()
	same, err := theirs.CallValue("equal", ours)
	return same == true, err
}

func TestUnevenInputsAreStockDDPsBitForBit(t *testing.T) {
	interpreter, _, err := cbridge.Discover(t.Context(), "", "torch")
	require.NoError(t, err)
	for _, steps := range [][]int{{3, 6}, {5, 2, 4, 7}} {
		t.Run(fmt.Sprint(len(steps), " ranks"), func(t *testing.T) {
			job := ranks.Shared(t, ranks.Options{N: len(steps), Case: "uneven", Args: unevenJob{interpreter.Executable, []string{"none", "allreduce", "powersgd"}, steps}})
			for rank, n := range steps {
				report := ranks.Result[unevenReport](t, job, rank)
				assert.Empty(t, report.Differing, "rank %d", rank)
				assert.Equal(t, 3*n*len(unevenShapes), report.Compared)
				assert.Greater(t, report.Buckets, 2)
				assert.Equal(t, len(steps)-1, report.Last)
			}
		})
	}
}

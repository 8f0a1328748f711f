package ddp_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/tensor"
)

// memoryGroup is one rank of a group whose ranks are goroutines.
type memoryGroup struct {
	*hub
	rank int
	next int // of this rank's collectives
}

// hub matches the ranks' collectives: the i-th call of each belongs together.
type hub struct {
	mu    sync.Mutex
	size  int
	ops   map[int]*operation
	delay func() time.Duration // before a collective's work; nil: none
	fail  error                // of every collective
}

type operation struct {
	name   string
	ranks  int
	inputs []func(*operation) // what each rank has to do once all are there
	done   []func(*tensor.Tensor, error)
	values []*tensor.Tensor
	in     []*tensor.Tensor
}

// memoryGroups makes the ranks of a group.
func memoryGroups(size int) []*memoryGroup {
	h := &hub{size: size, ops: map[int]*operation{}}
	ranks := make([]*memoryGroup, size)
	for i := range ranks {
		ranks[i] = &memoryGroup{hub: h, rank: i}
	}
	return ranks
}

// seededDelay sleeps up to limit before each collective.
func (h *hub) seededDelay(seed uint64, limit time.Duration) {
	random := rand.New(rand.NewPCG(seed, 1))
	h.delay = func() time.Duration { return time.Duration(random.Int64N(int64(limit))) }
}

// groupsMemory is torch's, for another group's ranks.
type groupsMemory struct {
	c10d.DeviceMemory
	group c10d.ProcessGroup
}

func (m groupsMemory) Group() c10d.ProcessGroup { return m.group }

func (g *memoryGroup) Rank() int       { return g.rank }
func (g *memoryGroup) Size() int       { return g.size }
func (g *memoryGroup) Backend() string { return "memory" }

// join enters this rank into its next collective. finish runs once, by the last
// to come.
func (g *memoryGroup) join(name string, in, out *tensor.Tensor, each func(*operation)) (*c10d.Future[*tensor.Tensor], error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail != nil {
		return nil, g.fail
	}
	op := g.ops[g.next]
	if op == nil {
		op = &operation{name: name, in: make([]*tensor.Tensor, g.size)}
		g.ops[g.next] = op
	}
	if op.name != name {
		return nil, fmt.Errorf("rank %d calls %s where another calls %s", g.rank, name, op.name)
	}
	future, complete := c10d.NewFuture[*tensor.Tensor]()
	op.in[g.rank] = in
	op.inputs, op.done, op.values = append(op.inputs, each), append(op.done, complete), append(op.values, out)
	if op.ranks++; op.ranks == g.size {
		delete(g.ops, g.next)
		var wait time.Duration
		if g.delay != nil {
			wait = g.delay()
		}
		go op.run(wait)
	}
	g.next++
	return future, nil
}

func (op *operation) run(wait time.Duration) {
	if wait > 0 {
		time.Sleep(wait)
	}
	for _, each := range op.inputs {
		each(op)
	}
	for i, complete := range op.done {
		complete(op.values[i], nil)
	}
}

// waiting is how many collectives wait for a rank.
func (h *hub) waiting() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops)
}

// abandon fails the collectives that wait for a rank.
func (h *hub) abandon() {
	h.mu.Lock()
	ops := h.ops
	h.ops = map[int]*operation{}
	h.mu.Unlock()
	for _, op := range ops {
		for _, complete := range op.done {
			complete(nil, errors.New("a rank never came"))
		}
	}
}

// AllReduce sums in float64: the sums of the tests are exact there.
func (g *memoryGroup) AllReduce(_ context.Context, t *tensor.Tensor, op c10d.ReduceOp) (*c10d.Future[*tensor.Tensor], error) {
	if op != c10d.Sum {
		return nil, fmt.Errorf("only sums, not %s", op)
	}
	first := g.rank == 0
	return g.join(fmt.Sprint("all_reduce", t.Shape()), t, t, func(op *operation) {
		if !first {
			return
		}
		sum := make([]float64, t.Len())
		wide := must(tensor.New(tensor.Float64, t.Len()))
		defer wide.Close()
		elements := must(tensor.Slice[float64](wide))
		for _, in := range op.in {
			check(tensor.Copy(wide, in))
			for i, x := range elements {
				sum[i] += x
			}
		}
		copy(elements, sum)
		for _, in := range op.in {
			check(tensor.Copy(in, wide))
		}
	})
}

func (g *memoryGroup) Broadcast(_ context.Context, t *tensor.Tensor, root int) (*c10d.Future[*tensor.Tensor], error) {
	return g.join("broadcast", t, t, func(op *operation) { check(tensor.Copy(t, op.in[root])) })
}

func (g *memoryGroup) AllGather(_ context.Context, out []*tensor.Tensor, in *tensor.Tensor) (*c10d.Future[*tensor.Tensor], error) {
	return g.join("all_gather", in, in, func(op *operation) {
		for i, t := range op.in {
			check(tensor.Copy(out[i], t))
		}
	})
}

func (g *memoryGroup) Barrier(ctx context.Context) error {
	future, err := g.join("barrier", nil, nil, func(*operation) {})
	if err != nil {
		return err
	}
	_, err = future.Wait(ctx)
	return err
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// hook is a hook of Go functions.
type hook struct {
	run   func(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error)
	parse func(v c10d.Result) (*tensor.Tensor, error) // nil: the value's tensor
}

func (h hook) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	return h.run(ctx, b)
}

func (h hook) ParseHookResult(_ *c10d.GradBucket, v c10d.Result) (*tensor.Tensor, error) {
	if h.parse != nil {
		return h.parse(v)
	}
	return c10d.ParseTensor(v)
}

// identity reduces nothing.
func identity(_ context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	return c10d.CompletedFuture[c10d.Result](c10d.TensorResult{Tensor: b.Buffer()}, nil), nil
}

// gate is a hook whose futures the test completes.
type gate struct {
	hook
	mu    sync.Mutex
	calls chan int // the bucket of each call
	open  map[int]func(c10d.Result, error)
}

func newGate() *gate {
	g := &gate{calls: make(chan int, 100), open: map[int]func(c10d.Result, error){}}
	g.hook.run = func(_ context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
		future, complete := c10d.NewFuture[c10d.Result]()
		g.mu.Lock()
		g.open[b.Index()] = complete
		g.mu.Unlock()
		g.calls <- b.Index()
		return future, nil
	}
	return g
}

// called waits for the hook call of a bucket.
func (g *gate) called(t *testing.T, bucket int) {
	t.Helper()
	select {
	case got := <-g.calls:
		require.Equal(t, bucket, got, "the bucket of the next hook call")
	case <-time.After(10 * time.Second):
		require.FailNow(t, "the hook was not called", "bucket %d", bucket)
	}
}

// idle asserts that the hook is not called for a while.
func (g *gate) idle(t *testing.T) {
	t.Helper()
	select {
	case got := <-g.calls:
		require.FailNow(t, "the hook was called", "bucket %d", got)
	case <-time.After(20 * time.Millisecond):
	}
}

// complete ends the future of a bucket's last call.
func (g *gate) complete(bucket int, v *tensor.Tensor, err error) {
	g.mu.Lock()
	complete := g.open[bucket]
	g.mu.Unlock()
	complete(c10d.TensorResult{Tensor: v}, err)
}

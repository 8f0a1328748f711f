package ddp_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// chained is a hook whose future takes as many levels as levels says for the
// bucket. It writes down what happens.
type chained struct {
	levels []int
	log    *[]string
	fail   string // the entry at which it fails
	mu     *sync.Mutex
}

type level struct {
	chained
	bucket, at int
	complete   func(c10d.Result, error)
	value      c10d.Result
}

func (c chained) note(format string, args ...any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	entry := fmt.Sprintf(format, args...)
	*c.log = append(*c.log, entry)
	if entry == c.fail {
		return errors.New("failed at " + entry)
	}
	return nil
}

func (c chained) RunHook(context.Context, *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	return nil, errors.New("called out of order")
}

func (c chained) RunHookChained(_ context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], c10d.Chain, error) {
	if err := c.note("call %d", b.Index()); err != nil {
		return nil, nil, err
	}
	future, complete := c10d.NewFuture[c10d.Result]()
	return future, &level{chained: c, bucket: b.Index(), complete: complete, value: c10d.TensorResult{Tensor: b.Buffer()}}, nil
}

func (c chained) ParseHookResult(_ *c10d.GradBucket, v c10d.Result) (*tensor.Tensor, error) {
	return c10d.ParseTensor(v)
}

func (l *level) Advance(context.Context) (bool, error) {
	l.at++
	if err := l.note("%d.%d", l.bucket, l.at); err != nil {
		l.complete(nil, err)
		return false, nil
	}
	if l.at < l.levels[l.bucket] {
		return true, nil
	}
	l.complete(l.value, nil)
	return false, nil
}

// Close lets go of the future, as dropping Python's does.
func (l *level) Close() {
	_ = l.note("close %d", l.bucket)
	l.complete(nil, c10d.ErrClosed)
}

// independent says whether it bears Ordered.
type independent struct {
	chained
	says bool
	err  error
}

func (i independent) Independent() (bool, error) { return i.says, i.err }

func runChained(t *testing.T, c chained, order ddp.Order) ([]string, error) {
	t.Helper()
	var log []string
	c.log, c.mu = &log, &sync.Mutex{}
	n := len(c.levels)
	r := reducer(t, scalars(n), ddp.Options{Hook: c, BucketCapMB: tiny, Order: order})
	setAll(t, r, n)
	_, err := r.Wait(testutil.Soon(t))
	return log, err
}

func TestOrderedRunsCallbacksByLevelAndBucket(t *testing.T) {
	log, err := runChained(t, chained{levels: []int{2, 1, 3}}, ddp.OrderOrdered)
	require.NoError(t, err)
	assert.Equal(t, []string{
		"call 0",
		"call 1", "0.1",
		"call 2", "0.2", "close 0", "1.1", "close 1",
		"2.1", "2.2", "2.3", "close 2",
	}, log)
}

func TestOrderedEndsTheStepAtAFailedCallbackAndClosesEveryChain(t *testing.T) {
	log, err := runChained(t, chained{levels: []int{2, 2, 2}, fail: "0.2"}, ddp.OrderOrdered)
	var step *ddp.StepError
	require.ErrorAs(t, err, &step)
	assert.Equal(t, 0, step.Bucket)
	assert.ErrorContains(t, err, "failed at 0.2")
	assert.Equal(t, []string{"call 0", "call 1", "0.1", "call 2", "0.2", "close 0", "close 1", "close 2"}, log)
}

func TestOrderedEndsTheStepAtAFailedCall(t *testing.T) {
	log, err := runChained(t, chained{levels: []int{2, 2, 2}, fail: "call 1"}, ddp.OrderOrdered)
	require.ErrorContains(t, err, "failed at call 1")
	assert.Equal(t, []string{"call 0", "call 1", "close 0"}, log)
}

func TestReducerWaitSerialRunsACallsCallbacksBeforeTheNextCall(t *testing.T) {
	log, err := runChained(t, chained{levels: []int{2, 1, 3}}, ddp.OrderAuto)
	require.NoError(t, err)
	assert.Equal(t, []string{
		"call 0", "0.1", "0.2", "close 0",
		"call 1", "1.1", "close 1",
		"call 2", "2.1", "2.2", "2.3", "close 2",
	}, log)
}

func TestReducerWaitSerialEndsTheStepAtAFailedCallback(t *testing.T) {
	log, err := runChained(t, chained{levels: []int{2, 2, 2}, fail: "1.1"}, ddp.OrderSerial)
	var step *ddp.StepError
	require.ErrorAs(t, err, &step)
	assert.Equal(t, 1, step.Bucket)
	assert.Equal(t, []string{"call 0", "0.1", "0.2", "close 0", "call 1", "1.1", "close 1"}, log)
}

// withLast completes the futures of all buckets in the call of the last one.
type withLast struct {
	chained
	n       int
	waiting *[]func()
}

func (w withLast) RunHookChained(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], c10d.Chain, error) {
	future, complete := c10d.NewFuture[c10d.Result]()
	*w.waiting = append(*w.waiting, func() { complete(c10d.TensorResult{Tensor: b.Buffer()}, nil) })
	if b.Index() == w.n-1 {
		for _, f := range *w.waiting {
			f()
		}
		*w.waiting = nil
	}
	return future, endedChain{}, nil
}

type endedChain struct{}

func (endedChain) Advance(context.Context) (bool, error) { return false, nil }
func (endedChain) Close()                                {}

func TestReducerWaitSerialDoesNotWaitForAFutureThatTheLastCallCompletes(t *testing.T) {
	var waiting []func()
	r := reducer(t, scalars(3), ddp.Options{Hook: withLast{n: 3, waiting: &waiting}, BucketCapMB: tiny})
	assert.Equal(t, ddp.OrderSerial, r.Order())
	for range 2 {
		stepWorks(t, r, 3)
	}
}

func TestNewReducerRefusesAHookWhoseOrderIsNotKnown(t *testing.T) {
	_, err := ddp.NewReducer(testutil.Soon(t), scalars(1), ddp.Options{Group: memoryGroups(1)[0], Hook: independent{err: c10d.ErrOrder}})
	require.ErrorIs(t, err, c10d.ErrOrder)
}

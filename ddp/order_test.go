package ddp_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tensorconv"
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
	complete   func(pyhook.Value, error)
	value      pyhook.Value
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

func (c chained) RunHook(context.Context, *pyhook.GradBucket) (*pyhook.Future, error) {
	return nil, errors.New("called out of order")
}

func (c chained) RunHookChained(_ context.Context, b *pyhook.GradBucket) (*pyhook.Future, pyhook.Chain, error) {
	if err := c.note("call %d", b.Index()); err != nil {
		return nil, nil, err
	}
	future, complete := pyhook.NewFuture()
	return future, &level{chained: c, bucket: b.Index(), complete: complete, value: pyhook.TensorValue(b.Buffer())}, nil
}

func (c chained) ParseHookResult(v pyhook.Value) (*tensorconv.Tensor, error) {
	t := v.Tensor()
	return t.View(0, t.Shape(), t.Strides())
}

func (l *level) Advance(context.Context) (bool, error) {
	l.at++
	if err := l.note("%d.%d", l.bucket, l.at); err != nil {
		l.complete(pyhook.Value{}, err)
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
	l.complete(pyhook.Value{}, pyhook.ErrClosed)
}

func runChained(t *testing.T, c chained) ([]string, error) {
	t.Helper()
	var log []string
	c.log, c.mu = &log, &sync.Mutex{}
	n := len(c.levels)
	r := reducer(t, scalars(n), ddp.Options{Hook: c, BucketCapMB: tiny})
	setAll(t, r, n)
	_, err := r.Wait(soon(t))
	return log, err
}

func TestOrderedRunsCallbacksByLevelAndBucket(t *testing.T) {
	log, err := runChained(t, chained{levels: []int{2, 1, 3}})
	require.NoError(t, err)
	assert.Equal(t, []string{
		"call 0",
		"call 1", "0.1",
		"call 2", "0.2", "close 0", "1.1", "close 1",
		"2.1", "2.2", "2.3", "close 2",
	}, log)
}

func TestOrderedEndsTheStepAtAFailedCallbackAndClosesEveryChain(t *testing.T) {
	log, err := runChained(t, chained{levels: []int{2, 2, 2}, fail: "0.2"})
	var step *ddp.StepError
	require.ErrorAs(t, err, &step)
	assert.Equal(t, 0, step.Bucket)
	assert.ErrorContains(t, err, "failed at 0.2")
	assert.Equal(t, []string{"call 0", "call 1", "0.1", "call 2", "0.2", "close 0", "close 1", "close 2"}, log)
}

func TestOrderedEndsTheStepAtAFailedCall(t *testing.T) {
	log, err := runChained(t, chained{levels: []int{2, 2, 2}, fail: "call 1"})
	require.ErrorContains(t, err, "failed at call 1")
	assert.Equal(t, []string{"call 0", "call 1", "close 0"}, log)
}

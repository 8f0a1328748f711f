package ddp_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/debuggc"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// quick is long enough for what must not happen.
func quick() <-chan time.Time { return time.After(20 * time.Millisecond) }

func TestACancelledWaitReturnsAndTheReductionItLeavesDoesNoHarm(t *testing.T) {
	if debuggc.On {
		t.Skip("the tag gives hooks other memory, and the gradients stay where they are: see TestRollbackLeavesTheGradientsAsTheyWere")
	}
	for _, order := range []ddp.Order{ddp.OrderSerial, ddp.OrderOverlapped} {
		noLeaks(t, func() {
			g := newGate()
			r, err := ddp.NewReducer(testutil.Soon(t), scalars(2), ddp.Options{Group: memoryGroups(1)[0], Hook: g, BucketCapMB: tiny, Order: order})
			require.NoError(t, err)
			old := abandonedStep(t, g, r)
			late := g.open
			g.open = map[int]func(c10d.Result, error){}
			if order == ddp.OrderOverlapped {
				g.called(t, 1)
			}

			// A whole step on other memory, and the late write in its middle.
			require.NotEqual(t, unsafe.Pointer(&old[0]), r.Gradient(1).Data())
			set(t, r, 1, 3)
			g.called(t, 0)
			old[0] = 1000
			late[0](nil, nil)
			set(t, r, 0, 4)
			g.complete(0, r.Gradient(1), nil)
			g.called(t, 1)
			g.complete(1, r.Gradient(0), nil)
			_, err = r.Wait(testutil.Soon(t))
			require.NoError(t, err)
			assert.Equal(t, []float32{3}, floats(r.Gradient(1)))
			assert.Equal(t, []float32{4}, floats(r.Gradient(0)))
			old[0] = 1001 // a careless trainer writes there too
			r.Close()
			if order == ddp.OrderOverlapped { // still at work after Close
				late[1](nil, nil)
			}
		})
	}
}

// abandonedStep is a step whose Wait is cut short. It returns the memory that
// bucket 0's reduction still works on.
func abandonedStep(t *testing.T, g *gate, r *ddp.Reducer) []float32 {
	t.Helper()
	own := []float32{1}
	grad := tensorOf(t, own...)
	defer grad.Close()
	old := floats(r.Gradient(1))
	set(t, r, 1, 7)
	require.NoError(t, r.ReadyFrom(0, grad))
	g.called(t, 0)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := r.Wait(ctx)
	assert.Less(t, time.Since(start), 5*time.Second)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	var step *ddp.StepError
	require.ErrorAs(t, err, &step)
	assert.Equal(t, 0, step.Bucket)
	assert.Equal(t, []string{"p1"}, step.Names)
	assert.Equal(t, []float32{1}, own)
	return old
}

func TestTheCauseOfACancelledContextIsTheError(t *testing.T) {
	for _, early := range []bool{true, false} {
		g := newGate()
		r := reducer(t, scalars(1), ddp.Options{Hook: g})
		set(t, r, 0, 1)
		g.called(t, 0)
		ctx, cancel := context.WithCancelCause(context.Background())
		if early {
			cancel(errBoom)
		} else {
			time.AfterFunc(time.Millisecond, func() { cancel(errBoom) })
		}
		_, err := r.Wait(ctx)
		require.ErrorIs(t, err, errBoom)
		g.complete(0, nil, nil)
	}
}

func TestAStepThatIsReducedIsASuccessThoughTheContextEnded(t *testing.T) {
	called := make(chan int, 10)
	h := hook{run: func(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
		defer func() { called <- b.Index() }()
		return identity(ctx, b)
	}}
	r := reducer(t, scalars(1), ddp.Options{Hook: h})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 20 {
		set(t, r, 0, 1)
		<-called
		_, err := r.Wait(ctx)
		require.NoError(t, err) // the other ranks have it, too
	}
}

func TestAHookThatHeedsItsContextIsStopped(t *testing.T) {
	h := hook{run: func(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	r := reducer(t, scalars(2), ddp.Options{Hook: h, BucketCapMB: tiny})
	for range 2 {
		setAll(t, r, 2)
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		_, err := r.Wait(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	setAll(t, r, 2)
	testutil.Within(t, r.Close)
}

func TestAHookCallThatIsInsideIsWaitedFor(t *testing.T) {
	release, called := make(chan struct{}), make(chan struct{})
	h := hook{run: func(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
		close(called)
		<-release
		return identity(ctx, b)
	}}
	r := reducer(t, scalars(2), ddp.Options{Hook: h, BucketCapMB: tiny})
	setAll(t, r, 2)
	<-called
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	waited := make(chan error, 1)
	go func() {
		_, err := r.Wait(ctx)
		waited <- err
	}()
	select {
	case <-waited:
		require.FailNow(t, "Wait returned with a hook call inside")
	case <-quick():
	}
	close(release)
	err := <-waited
	require.ErrorIs(t, err, context.Canceled)
	var step *ddp.StepError
	require.ErrorAs(t, err, &step)
	assert.Equal(t, 1, step.Bucket)
}

func TestNothingWorksAfterClose(t *testing.T) {
	noLeaks(t, func() {
		r, err := ddp.NewReducer(testutil.Soon(t), scalars(2), ddp.Options{Group: memoryGroups(1)[0], Hook: hook{run: identity}})
		require.NoError(t, err)
		stepWorks(t, r, 2)
		var closing sync.WaitGroup
		for range 4 {
			closing.Go(r.Close)
		}
		closing.Wait()
		r.Close()
		grad := tensorOf(t, 1)
		defer grad.Close()
		_, err = r.Wait(testutil.Soon(t))
		require.ErrorIs(t, err, ddp.ErrClosed)
		require.ErrorIs(t, r.Ready(0), ddp.ErrClosed)
		require.ErrorIs(t, r.ReadyFrom(0, grad), ddp.ErrClosed)
		_, err = r.Gradient(0).View(0, []int64{1}, nil)
		require.Error(t, err)
	})
}

func TestCloseInTheMiddleOfAStep(t *testing.T) {
	for _, order := range []ddp.Order{ddp.OrderSerial, ddp.OrderOverlapped} {
		for _, waiting := range []bool{true, false} {
			noLeaks(t, func() {
				g := newGate()
				r, err := ddp.NewReducer(testutil.Soon(t), scalars(3), ddp.Options{Group: memoryGroups(1)[0], Hook: g, BucketCapMB: tiny, Order: order})
				require.NoError(t, err)
				grad := tensorOf(t, 1)
				defer grad.Close()
				memory := floats(r.Gradient(2))
				set(t, r, 2, 1)
				require.NoError(t, r.ReadyFrom(1, grad))
				g.called(t, 0)
				waited := make(chan error, 1)
				if waiting {
					set(t, r, 0, 1)
					go func() {
						_, err := r.Wait(context.Background())
						waited <- err
					}()
					time.Sleep(time.Millisecond)
				}
				testutil.Within(t, r.Close)
				if waiting {
					require.ErrorIs(t, <-waited, ddp.ErrClosed)
				}
				memory[0] = 5 // the reduction goes on, and the memory is still there
				for _, complete := range g.open {
					complete(nil, nil)
				}
			})
		}
	}
}

// Close at any moment of a step, with a Wait that may be before, inside, after.
func TestCloseAtAnyMoment(t *testing.T) {
	noLeaks(t, func() {
		for i := range often(300) {
			groups := memoryGroups(1)
			groups[0].seededDelay(uint64(i), 50*time.Microsecond)
			r, err := ddp.NewReducer(testutil.Soon(t), scalars(4), ddp.Options{Group: groups[0], BucketCapMB: tiny, Order: ddp.Order(i % 3), SkipVerify: true})
			require.NoError(t, err)
			done := make(chan error)
			go func() {
				for {
					for k := range 4 {
						if err := r.Ready(k); err != nil {
							done <- err
							return
						}
					}
					if _, err := r.Wait(context.Background()); err != nil {
						done <- err
						return
					}
				}
			}()
			time.Sleep(time.Duration(i) * time.Microsecond)
			testutil.Within(t, r.Close)
			testutil.Within(t, func() { require.ErrorIs(t, <-done, ddp.ErrClosed) })
		}
	})
}

func TestTwoWaitsAtOnceAreRefused(t *testing.T) {
	g := newGate()
	r := reducer(t, scalars(1), ddp.Options{Hook: g})
	set(t, r, 0, 1)
	g.called(t, 0)
	errs := make(chan error)
	for range 2 {
		go func() {
			_, err := r.Wait(testutil.Soon(t))
			errs <- err
		}()
	}
	require.ErrorContains(t, <-errs, "Wait is called while another Wait is inside")
	g.complete(0, r.Gradient(0), nil)
	require.NoError(t, <-errs)
}

// Whoever comes second must not write to a bucket that may be with the hook.
func TestOfManyMarkersOfOneParameterOneWins(t *testing.T) {
	r := reducer(t, parameters([]int64{1 << 20}), ddp.Options{Hook: hook{run: identity}})
	grad := zeros(t, tensor.Float64, 1<<20)
	for range 10 {
		var won, refused atomic.Int32
		var marking sync.WaitGroup
		start := make(chan struct{})
		for range 4 {
			marking.Go(func() {
				<-start
				switch err := r.ReadyFrom(0, grad); {
				case err == nil:
					won.Add(1)
				case errors.Is(err, ddp.ErrReadyTwice):
					refused.Add(1)
				}
			})
		}
		close(start)
		marking.Wait()
		require.Equal(t, []int32{1, 3}, []int32{won.Load(), refused.Load()})
		_, err := r.Wait(testutil.Soon(t))
		require.NoError(t, err)
	}
}

// A Wait or a Close that comes while a gradient is still being copied.
func TestAStepThatEndsWhileAGradientIsCopied(t *testing.T) {
	noLeaks(t, func() {
		grad := zeros(t, tensor.Float64, 1<<20)
		defer grad.Close()
		for i := range 40 {
			r, err := ddp.NewReducer(testutil.Soon(t), parameters([]int64{1 << 20}, nil), ddp.Options{Group: memoryGroups(1)[0], Hook: hook{run: identity}})
			require.NoError(t, err)
			require.NoError(t, r.Ready(1))
			copied := make(chan error)
			go func() { copied <- r.ReadyFrom(0, grad) }()
			time.Sleep(time.Duration(i%20) * 50 * time.Microsecond)
			if i%2 == 0 {
				r.Close()
				if err := <-copied; err != nil {
					require.ErrorIs(t, err, ddp.ErrClosed)
				}
				continue
			}
			_, err = r.Wait(testutil.Soon(t))
			if err := <-copied; err != nil {
				require.ErrorIs(t, err, ddp.ErrNotReady)
			}
			if err != nil {
				require.ErrorIs(t, err, ddp.ErrNotReady)
			}
			r.Close()
		}
	})
}

package pyhook

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// pythonOf is what the bucket has of Python's; nil: nothing.
func pythonOf(b *c10d.GradBucket) *pythonBucket {
	attached, err := b.Attach(pythonKey, func() (c10d.Attachment, error) { return nil, errors.New("nothing") })
	if err != nil {
		return nil
	}
	return attached.(*pythonBucket)
}

// forget is what a hook that changes its buffer in place brings about.
func forget(b *c10d.GradBucket) {
	if python := pythonOf(b); python != nil {
		b.Detach(pythonKey, python)
	}
}

// A callback of torch's holds the GIL. Were a bucket's or a future's lock held
// by one who waits for the GIL, it would never end.
func TestCallbacksAndGoroutinesDoNotWaitForEachOther(t *testing.T) {
	check(t, "", func(t *testing.T) {
		testutil.Within(t, func() {
			h := load(t, "sample:pending", HookConfig{})
			b := bucket(t, []float32{1, 2})
			other := tensorOf(t, tensor.Float32, []float32{3, 4})
			first := b.Buffer()
			for i := range slow.Of(200) {
				futures := make([]*c10d.Future[c10d.Result], 4)
				for j := range futures {
					var err error
					futures[j], err = h.RunHook(context.Background(), b)
					require.NoError(t, err)
				}
				var group sync.WaitGroup
				group.Go(func() { python(t, "sample.finish", i%2 == 0) })
				group.Go(func() {
					assert.NoError(t, b.SetBuffer(map[bool]*tensor.Tensor{true: first, false: other}[i%2 == 1]))
				})
				group.Go(func() { _ = b.Buffer(); _ = h.LegacyNames(b); forget(b) })
				for j, future := range futures {
					group.Go(func() {
						if j%2 == 0 {
							_, err := future.Wait(context.Background())
							assert.NoError(t, err)
						}
						future.Close()
					})
				}
				group.Wait()
			}
		})
	})
}

// A Go function that Python calls holds the GIL too, and may ask for anything
// that does not wait for Python.
func TestAGoFunctionInAHookMayUseBucketAndFuture(t *testing.T) {
	check(t, "", func(t *testing.T) {
		testutil.Within(t, func() {
			b := bucket(t, []float32{1})
			pending := hookFuture(t, "sample:pending", b)
			defer pending.Close()
			inner := load(t, "sample:doubled", HookConfig{})
			inside, stop := make(chan struct{}, 1), make(chan struct{})
			ask, err := cbridge.NewFunc("ask", func([]*Object) (any, error) {
				select {
				case inside <- struct{}{}:
				default:
				}
				_, _ = b.Buffer(), pending.Done()
				future, err := inner.RunHook(context.Background(), b) // a hook in a hook
				if err != nil {
					return nil, err
				}
				defer future.Close()
				value, err := future.Wait(context.Background())
				if err != nil {
					return nil, err
				}
				return resultObject(value).Clone()
			})
			require.NoError(t, err)
			defer ask.Close()
			path := file(t, "asks.py", "from sample import done\ndef hook(state, bucket): return done(state())\n")
			h := load(t, path+":hook", HookConfig{State: ask})
			var group sync.WaitGroup
			group.Go(func() {
				<-inside
				for {
					select {
					case <-stop:
						return
					default:
						forget(b)
						hookFuture(t, "sample:pending", b).Close()
					}
				}
			})
			for range slow.Of(100) {
				got, err := run(t, h, bucket(t, []float32{1}))
				assert.NoError(t, err)
				assert.Equal(t, []float32{2}, got)
			}
			close(stop)
			group.Wait()
			python(t, "sample.finish")
		})
	})
}

func TestManyGoroutinesRunHooksAtOnce(t *testing.T) {
	check(t, "", func(t *testing.T) {
		testutil.Within(t, func() {
			shared := &c10d.Parameter{Name: "w", Shape: []int64{2}, DType: tensor.Float32}
			defer shared.Close()
			var group sync.WaitGroup
			for i := range 8 {
				spec := []string{"sample:doubled", "sample:doubled_in_place", "sample:later", "allreduce", "noop",
					"faults:raises", "sample:reduced", "contract:looks_at_parameters"}[i]
				h := load(t, spec, HookConfig{})
				buffer := tensorOf(t, tensor.Float32, []float32{float32(i), 1})
				b, err := c10d.NewGradBucket(c10d.BucketConfig{Index: i, Count: 8, Buffer: buffer, Offsets: []int64{0}, Lengths: []int64{2},
					Sizes: [][]int64{{2}}, Parameters: []*c10d.Parameter{shared}})
				require.NoError(t, err)
				group.Go(func() {
					defer b.Close()
					for range slow.Of(50) {
						_, err := run(t, h, b)
						if spec == "faults:raises" {
							assert.ErrorIs(t, err, c10d.ErrRaised)
						} else {
							assert.NoError(t, err)
						}
					}
				})
			}
			group.Wait()
		})
	})
}

func TestCloseWhileCallsRunIsClean(t *testing.T) {
	check(t, "", func(t *testing.T) {
		testutil.Within(t, func() {
			for round := range 20 {
				h := load(t, "sample:doubled", HookConfig{})
				var group sync.WaitGroup
				for range 4 {
					b := bucket(t, []float32{1, 2})
					group.Go(func() {
						for {
							got, err := run(t, h, b)
							if err != nil {
								assert.ErrorIs(t, err, c10d.ErrClosed)
								return
							}
							assert.Equal(t, []float32{2, 4}, got)
						}
					})
					group.Go(func() {
						time.Sleep(time.Duration(round) * 100 * time.Microsecond)
						switch round % 3 {
						case 0:
							h.Close()
						case 1:
							b.Close()
						default:
							b.Buffer().Close()
						}
					})
				}
				group.Wait()
			}
		})
	})
}

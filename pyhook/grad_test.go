package pyhook

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/tensor"
)

// modes are where grads.py's hooks noted autograd's mode, and what it was.
func modes(t *testing.T) (where []string, on []bool) {
	t.Helper()
	for _, mode := range python(t, "grads.taken").([]any) {
		pair := mode.([]any)
		where, on = append(where, pair[0].(string)), append(on, pair[1].(bool))
	}
	return where, on
}

// withMode runs f on a thread whose mode is on or off, and asserts that f leaves it so.
func withMode(t *testing.T, on bool, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	was := python(t, "grads.set_mode", on)
	f()
	assert.Equal(t, on, python(t, "grads.set_mode", was), "the thread's own mode after the call")
}

// backward() calls hooks with autograd off (torch.is_grad_enabled() is False), on
// 1.13 and 2.15 alike.
func TestAutogradIsOffInHookCalls(t *testing.T) {
	for _, on := range []bool{true, false} {
		for _, name := range []string{"notes_and_leaves_on", "raises_with_it_on"} {
			check(t, name, func(t *testing.T) {
				h, b := load(t, "grads:"+name, HookConfig{}), bucket(t, []float32{1, 2})
				withMode(t, on, func() {
					for range 3 {
						_, err := run(t, h, b)
						if name == "raises_with_it_on" {
							require.ErrorIs(t, err, c10d.ErrRaised)
							continue
						}
						require.NoError(t, err)
					}
				})
				where, seen := modes(t)
				assert.Equal(t, []string{"body", "body", "body"}, where)
				assert.Equal(t, []bool{false, false, false}, seen)
			})
		}
	}
}

func TestAutogradIsOffInCallsInsideCalls(t *testing.T) {
	check(t, "", func(t *testing.T) {
		inner, b := load(t, "grads:notes_and_leaves_on", HookConfig{}), bucket(t, []float32{1, 2})
		f, err := cbridge.NewFunc("inner", func([]*Object) (any, error) {
			_, err := run(t, inner, b)
			return nil, err
		})
		require.NoError(t, err)
		defer f.Close()
		outer := load(t, "grads:calls_go", HookConfig{State: map[string]any{"inner": f}})
		withMode(t, true, func() {
			_, err := run(t, outer, bucket(t, []float32{3}))
			require.NoError(t, err)
		})
		where, seen := modes(t)
		assert.Equal(t, []string{"before", "body", "after"}, where)
		assert.Equal(t, []bool{false, false, false}, seen)
	})
}

// drained advances a chain to its end.
func drained(t *testing.T, c c10d.Chain) {
	t.Helper()
	for more := true; more; {
		var err error
		more, err = c.Advance(t.Context())
		require.NoError(t, err)
	}
}

func TestAutogradIsOffInAChainsCallbacks(t *testing.T) {
	check(t, "a dense bucket", func(t *testing.T) {
		h, b := load(t, "grads:notes", HookConfig{}), bucket(t, []float32{1, 2})
		withMode(t, true, func() {
			for range 2 {
				future, c, err := h.RunHookChained(t.Context(), b)
				require.NoError(t, err)
				drained(t, c)
				_, err = future.Wait(t.Context())
				require.NoError(t, err)
				future.Close()
				c.Close()
			}
		})
		where, seen := modes(t)
		require.Len(t, where, 6)
		assert.Equal(t, []string{"body", "callback", "second callback"}, where[3:])
		assert.Equal(t, []bool{false, false}, seen[:2])
		assert.Equal(t, []bool{false, false}, seen[3:5])
	})
	check(t, "a sparse bucket", func(t *testing.T) {
		h := load(t, "grads:notes", HookConfig{})
		p := &c10d.Parameter{Name: "e", Shape: []int64{4, 2}, DType: tensor.Float32}
		defer p.Close()
		g, err := c10d.NewSparseGradient(p, 1, 2)
		require.NoError(t, err)
		defer g.Close()
		b, err := c10d.NewSparseGradBucket(0, 1, p, g)
		require.NoError(t, err)
		defer b.Close()
		withMode(t, true, func() {
			future, c, err := h.RunHookChained(t.Context(), b)
			require.NoError(t, err)
			drained(t, c)
			_, _ = future.Wait(t.Context())
			future.Close()
			c.Close()
		})
		where, seen := modes(t)
		assert.Equal(t, []string{"body", "callback", "second callback"}, where)
		assert.Equal(t, []bool{false, false}, seen[:2])
	})
}

// weighted is a bucket of one gradient whose parameter has values.
func weighted(t *testing.T, weights, gradient []float32) (*c10d.GradBucket, *tensor.Tensor) {
	t.Helper()
	n := int64(len(weights))
	data := tensorOf(t, tensor.Float32, weights)
	p := &c10d.Parameter{Name: "w", Shape: []int64{n}, DType: tensor.Float32, Data: data}
	t.Cleanup(p.Close)
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: tensorOf(t, tensor.Float32, gradient),
		Offsets: []int64{0}, Lengths: []int64{n}, Sizes: [][]int64{{n}}, Parameters: []*c10d.Parameter{p}})
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b, data
}

func TestAHookCanUpdateTheWeights(t *testing.T) {
	check(t, "", func(t *testing.T) {
		b, data := weighted(t, []float32{1, 2, 3}, []float32{2, 4, 8})
		got, err := run(t, load(t, "grads:updates", HookConfig{}), b)
		require.NoError(t, err)
		assert.Equal(t, []float32{2, 4, 8}, got)
		assert.Equal(t, []float32{0, 0, -1}, values(t, data))
	})
}

// A graph would hold what it was made of: 3 MiB a step at this size.
func TestHooksThatUseParametersGrowNoGraph(t *testing.T) {
	const elements, steps = 200_300, 60
	for _, hook := range []string{"scales", "scales_recording", "scales_recording_later"} {
		check(t, hook, func(t *testing.T) {
			weights := make([]float32, elements)
			weights[7] = 1 // its norm is 1
			gradient := make([]float32, elements)
			gradient[0] = 3
			b, _ := weighted(t, weights, gradient)
			h := load(t, "grads:"+hook, HookConfig{})
			step := func() {
				got, err := run(t, h, b)
				require.NoError(t, err)
				require.Equal(t, float32(3), got[0])
			}
			for range 10 {
				step()
			}
			before := resident(t)
			for range steps {
				step()
			}
			if !underASan() {
				assert.Less(t, resident(t)-before, int64(steps*3<<20/4), "bytes that %d steps left", steps)
			}
			assert.NotContains(t, python(t, "grads.graphs_taken"), true, "bucket.buffer().requires_grad at the start of a call")
		})
	}
}

// A hook that was steady for long and records then: its buffer requires grad for a
// few calls at most.
func TestABufferThatASteadyHookMadeRequireGradIsMadeAnew(t *testing.T) {
	check(t, "", func(t *testing.T) {
		b, _ := weighted(t, []float32{1}, []float32{3})
		steady, records := load(t, "grads:scales", HookConfig{}), load(t, "grads:scales_recording", HookConfig{})
		for range 100 {
			_, err := run(t, steady, b)
			require.NoError(t, err)
		}
		python(t, "grads.graphs_taken")
		for range 20 {
			_, err := run(t, records, b)
			require.NoError(t, err)
		}
		seen := python(t, "grads.graphs_taken").([]any)
		assert.NotContains(t, seen[8:], true)
		for range 20 {
			got, err := run(t, steady, b)
			require.NoError(t, err)
			assert.Equal(t, []float32{3}, got)
		}
		assert.NotContains(t, python(t, "grads.graphs_taken"), true)
	})
}

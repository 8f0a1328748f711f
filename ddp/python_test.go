package ddp_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// python loads a hook and closes it with the test.
func python(t *testing.T, spec string, state any) *pyhook.PythonCommHook {
	t.Helper()
	h, err := rt.NewHook(t.Context(), spec, pyhook.HookConfig{State: state})
	require.NoError(t, err)
	t.Cleanup(h.Close)
	return h
}

func TestPythonHooksReduceTheStepsOfAGoTrainer(t *testing.T) {
	refused, err := world.DTypes(t.Context())
	require.NoError(t, err)
	for _, c := range []struct{ spec, dtype string }{
		{"allreduce", "float32"}, {"fp16", "float16"}, {"bf16", "bfloat16"}, {"noop", "float32"}, {"hooks:later", "float32"},
	} {
		t.Run(c.spec, func(t *testing.T) {
			if why := refused[c.dtype]; why != "" {
				t.Skip("this gloo does not reduce " + c.dtype + ": " + why)
			}
			noLeaks(t, func() {
				h, err := rt.NewHook(t.Context(), c.spec, pyhook.HookConfig{})
				require.NoError(t, err)
				defer h.Close()
				params := parameters([]int64{2, 3}, []int64{3}, []int64{0}, nil)
				params[3].Data = must(tensor.New(tensor.Float32))
				defer params[3].Data.Close()
				r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: world, Hook: h, BucketCapMB: twoFloats})
				require.NoError(t, err)
				defer closeParameters(params)
				defer r.Close()
				assert.Len(t, r.Buckets(), 2)
				for range 3 {
					for i := range params {
						set(t, r, i, float32(i+1))
					}
					_, err := r.Wait(testutil.Soon(t))
					require.NoError(t, err)
					for i := range params {
						for _, x := range floats(r.Gradient(i)) {
							assert.Equal(t, float32(i+1), x)
						}
					}
				}
			})
		})
	}
}

func closeParameters(params []*c10d.Parameter) {
	for _, p := range params {
		p.Close()
	}
}

// Each bucket is a matrix, so that PowerSGD compresses it.
func TestPowerSGDOverSeveralBuckets(t *testing.T) {
	noLeaks(t, func() {
		state, err := rt.NewState(t.Context(), "powersgd", map[string]any{"matrix_approximation_rank": 1, "start_powerSGD_iter": 2}, world)
		require.NoError(t, err)
		defer state.Close()
		h, err := rt.NewHook(t.Context(), "powersgd", pyhook.HookConfig{State: state})
		require.NoError(t, err)
		defer h.Close()
		params := parameters([]int64{8, 8}, []int64{8}, []int64{8, 8}, []int64{8, 8})
		r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: world, Hook: h, BucketCapMB: tiny})
		require.NoError(t, err)
		defer closeParameters(params)
		defer r.Close()
		assert.Equal(t, ddp.OrderSerial, r.Order())
		for range 5 {
			// Matrices of rank 1, which PowerSGD keeps.
			for i := range params {
				g := floats(r.Gradient(i))
				for k := range g {
					g[k] = float32((k/8 + 1) * (k%8 + 1))
				}
				require.NoError(t, r.Ready(i))
			}
			_, err := r.Wait(testutil.Soon(t))
			require.NoError(t, err)
			for i := range params {
				for k, x := range floats(r.Gradient(i)) {
					assert.InDelta(t, float64((k/8+1)*(k%8+1)), x, 1e-3)
				}
			}
		}
	})
}

func TestReducer_Buckets_resume(t *testing.T) {
	shapes := [][]int64{{8, 8}, {8}, {8, 8}, {8, 8}}
	train := func(t *testing.T, opts ddp.Options, saved []byte, first, last int) (bits []float32, state []byte, buckets [][]int, err error) {
		h := python(t, "powersgd", pyhook.StateSpec{Spec: "powersgd", Args: map[string]any{"start_powerSGD_iter": 2}})
		if saved != nil {
			require.NoError(t, h.LoadState(t.Context(), bytes.NewReader(saved)))
		}
		opts.Group, opts.Hook, opts.BucketCapMB = world, h, tiny
		params := parameters(shapes...)
		r, err := ddp.NewReducer(testutil.Soon(t), params, opts)
		require.NoError(t, err)
		defer closeParameters(params)
		defer r.Close()
		for step := first; step < last; step++ {
			for _, i := range []int{0, 2, 1, 3} { // not the fixed layout's order
				g := floats(r.Gradient(i))
				for k := range g {
					g[k] = float32((k*k+i+step)%7) - 3
				}
				require.NoError(t, r.Ready(i))
			}
			if _, err := r.Wait(testutil.Soon(t)); err != nil {
				return nil, nil, nil, err
			}
		}
		for i := range params {
			bits = append(bits, floats(r.Gradient(i))...)
		}
		var file bytes.Buffer
		require.NoError(t, h.SaveState(t.Context(), &file))
		return bits, file.Bytes(), r.Buckets(), nil
	}
	rebuilt := ddp.Options{Layout: ddp.LayoutRebuilt}
	whole, _, _, err := train(t, rebuilt, nil, 0, 8)
	require.NoError(t, err)
	_, saved, buckets, err := train(t, rebuilt, nil, 0, 5)
	require.NoError(t, err)
	require.Greater(t, len(buckets), 1)

	t.Run("with those of a rebuilt layout a saved state goes on with the same bits", func(t *testing.T) {
		resumed, _, _, err := train(t, ddp.Options{Layout: ddp.LayoutFixed, Buckets: buckets}, saved, 5, 8)
		require.NoError(t, err)
		assert.True(t, sameBits(whole, resumed), "%v\n%v", whole, resumed)
	})
	t.Run("with others it is an error that names them", func(t *testing.T) {
		for _, opts := range []ddp.Options{rebuilt, {}} {
			_, _, _, err := train(t, opts, saved, 5, 8)
			require.ErrorIs(t, err, c10d.ErrStateBuckets)
			assert.ErrorContains(t, err, "Reducer.Buckets")
		}
	})
}

// Hooks that keep things by parameter, or read gradients by it, depend on this.
func TestAHookSeesOneObjectForAParameterAndItsGradient(t *testing.T) {
	state, err := rt.Import(t.Context(), "types")
	require.NoError(t, err)
	defer state.Close()
	namespace, err := state.Call("SimpleNamespace")
	require.NoError(t, err)
	defer namespace.Close()
	params := parameters([]int64{2}, []int64{3}, []int64{2, 2})
	data := tensorOf(t, 10, 11)
	params[0].Data = data
	defer closeParameters(params)
	r := reducer(t, params, ddp.Options{Group: world, Hook: python(t, "hooks:checks_identity", namespace), BucketCapMB: twoFloats})
	for step := range 3 {
		setAll(t, r, 3)
		_, err := r.Wait(testutil.Soon(t))
		require.NoError(t, err, "step %d", step)
	}
	calls, err := namespace.Attr("calls")
	require.NoError(t, err)
	defer calls.Close()
	text, err := calls.Str()
	require.NoError(t, err)
	assert.Equal(t, "{0: 3, 1: 3, 2: 3}", text)
}

func TestAPythonHooksExceptionIsAStepErrorAndTheNextStepWorks(t *testing.T) {
	for spec, kind := range map[string]error{"hooks:raises_once": c10d.ErrRaised, "hooks:fails_once": c10d.ErrFutureFailed,
		"hooks:short_once": c10d.ErrShort, "hooks:none_once": c10d.ErrNoneResult} {
		for _, order := range []ddp.Order{ddp.OrderSerial, ddp.OrderOverlapped} {
			t.Run(spec, func(t *testing.T) {
				seen, err := rt.Import(t.Context(), "builtins")
				require.NoError(t, err)
				defer seen.Close()
				list, err := seen.Call("list")
				require.NoError(t, err)
				defer list.Close()
				params := scalars(3)
				defer closeParameters(params)
				r := reducer(t, params, ddp.Options{Group: world, Hook: python(t, spec, list), BucketCapMB: tiny, Order: order})
				own := []float32{1}
				require.NoError(t, r.ReadyFrom(0, tensorOf(t, own...)))
				set(t, r, 1, 1)
				set(t, r, 2, 1)
				_, err = r.Wait(testutil.Soon(t))
				require.ErrorIs(t, err, kind)
				var step *ddp.StepError
				require.ErrorAs(t, err, &step)
				assert.Equal(t, 1, step.Bucket)
				var of *c10d.Error
				require.ErrorAs(t, err, &of)
				assert.Equal(t, 1, of.Bucket)
				assert.Equal(t, []float32{1}, own)
				stepWorks(t, r, 3)
			})
		}
	}
}

// A result that the hook left on another dtype, with an offset and strides.
func TestAPythonHooksOddResultIsReadRight(t *testing.T) {
	params := scalars(3)
	params[1].DType = tensor.Float64
	defer closeParameters(params)
	r := reducer(t, params, ddp.Options{Group: world, Hook: python(t, "hooks:odd", nil)})
	for range 2 {
		for i, p := range params {
			grad := converted(t, p.DType, tensorOf(t, float32(i+1)))
			require.NoError(t, r.ReadyFrom(i, grad))
			defer func() {
				back := converted(t, tensor.Float32, grad)
				assert.Equal(t, float32(2*(i+1)), floats(back)[0])
			}()
		}
		_, err := r.Wait(testutil.Soon(t))
		require.NoError(t, err)
	}
}

package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/internal/testutil"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/worker"
	"pyhook/worker/internal/ipc"
)

func TestHook_RunHook_Memory(t *testing.T) {
	t.Run("it is the trainer's", func(t *testing.T) {
		w := shared(t)
		for _, c := range []struct {
			name, spec string
			shared     bool
			want       []float32
			same       bool
		}{
			{"shared memory is not copied", "noop", true, []float32{1, 2, 3}, true},
			{"and an all-reduce works in it", "allreduce", true, []float32{1, 2, 3}, true},
			{"other memory is staged", "allreduce", false, []float32{1, 2, 3}, false},
			{"a result in other memory, of another dtype", "hooks:other", true, []float32{2, 4, 6}, false},
		} {
			t.Run(c.name, func(t *testing.T) {
				h := hook(t, w, c.spec, worker.HookConfig{})
				from := w
				if !c.shared {
					from = nil
				}
				b := bucket(t, from, 1, 2, 3)
				for range 3 {
					got, err := reduce(testutil.Soon(t), h, b)
					require.NoError(t, err)
					assert.Equal(t, c.want, got)
				}
				future, err := h.RunHook(testutil.Soon(t), b)
				require.NoError(t, err)
				defer future.Close()
				value, err := future.Wait(testutil.Soon(t))
				require.NoError(t, err)
				result, err := h.ParseHookResult(b, value)
				require.NoError(t, err)
				assert.Equal(t, c.same, result.Data() == b.Buffer().Data())
				assert.Equal(t, []float32{1, 2, 3}, floats(t, b.Buffer()), "nobody but ddp writes the results")
			})
		}
	})
}

// A chain is over when there are no more collectives; a thread may complete the hook's future later.
func TestHook_RunHookChained_Thread(t *testing.T) {
	w := shared(t)
	future, chain, err := hook(t, w, "hooks:by_a_thread", worker.HookConfig{}).RunHookChained(testutil.Soon(t), bucket(t, w, 1, 2, 3))
	require.NoError(t, err)
	defer future.Close()
	more, err := chain.Advance(testutil.Soon(t))
	require.NoError(t, err)
	require.False(t, more)
	chain.Close()
	value, err := future.Wait(testutil.Soon(t))
	require.NoError(t, err)
	assert.Equal(t, []float32{2, 4, 6}, floats(t, value.(c10d.TensorResult).Tensor))
}

func TestHook_RunHook_Errors(t *testing.T) {
	t.Run("they are those of this process", func(t *testing.T) {
		w := shared(t)
		for _, c := range []struct {
			spec string
			kind error
			text string
		}{
			{"hooks:raises", c10d.ErrRaised, "out of cheese"},
			{"hooks:none", c10d.ErrNoneResult, "None"},
			{"hooks:short", c10d.ErrShort, ""},
			{"hooks:fails", c10d.ErrFutureFailed, "no cheese"},
		} {
			t.Run(c.spec, func(t *testing.T) {
				h := hook(t, w, c.spec, worker.HookConfig{})
				b := bucket(t, w, 1, 2, 3)
				_, err := reduce(testutil.Soon(t), h, b)
				var failed *c10d.Error
				require.ErrorAs(t, err, &failed)
				assert.ErrorIs(t, err, c.kind)
				assert.Equal(t, 0, failed.Rank)
				assert.Equal(t, 0, failed.Bucket)
				assert.NotEmpty(t, failed.Hint)
				assert.Contains(t, err.Error(), c.text)
				assert.NoError(t, w.Err(), "the worker goes on")
			})
		}
		t.Run("the exception and its traceback", func(t *testing.T) {
			_, err := reduce(testutil.Soon(t), hook(t, w, "hooks:raises", worker.HookConfig{}), bucket(t, w, 1))
			assert.ErrorIs(t, err, pyhook.Exception("ValueError"))
			var python *pyhook.PythonError
			require.ErrorAs(t, err, &python)
			assert.Contains(t, python.Traceback, "hooks.py")
		})
		t.Run("a hook that is not there", func(t *testing.T) {
			_, err := w.NewHook(t.Context(), "hooks:nowhere", worker.HookConfig{})
			assert.ErrorIs(t, err, c10d.ErrNoAttribute)
		})
		t.Run("a closed bucket", func(t *testing.T) {
			b := bucket(t, w, 1)
			b.Close()
			b.Buffer().Close()
			_, err := reduce(testutil.Soon(t), hook(t, w, "noop", worker.HookConfig{}), b)
			assert.ErrorIs(t, err, c10d.ErrClosed)
		})
	})
}

func TestHook_SaveState(t *testing.T) {
	t.Run("states are made, saved and restored in the worker", func(t *testing.T) {
		w := shared(t)
		b := bucket(t, w, 0, 0)
		h := hook(t, w, "hooks:count", worker.HookConfig{State: worker.State{Spec: "hooks:Counter", Args: map[string]any{"start": 5}}})
		got, err := reduce(testutil.Soon(t), h, b)
		require.NoError(t, err)
		assert.Equal(t, []float32{6, 6}, got)
		var saved bytes.Buffer
		require.NoError(t, h.SaveState(t.Context(), &saved))
		_, err = reduce(testutil.Soon(t), h, b)
		require.NoError(t, err)
		require.NoError(t, h.LoadState(t.Context(), &saved))
		got, err = reduce(testutil.Soon(t), h, b)
		require.NoError(t, err)
		assert.Equal(t, []float32{7, 7}, got)
		assert.ErrorIs(t, h.LoadState(t.Context(), bytes.NewReader([]byte("no state"))), c10d.ErrStateCorrupt)

		file := filepath.Join(t.TempDir(), "state")
		require.NoError(t, h.SaveStateFile(t.Context(), file))
		_, err = reduce(testutil.Soon(t), h, b)
		require.NoError(t, err)
		require.NoError(t, h.LoadStateFile(t.Context(), file))
		got, err = reduce(testutil.Soon(t), h, b)
		require.NoError(t, err)
		assert.Equal(t, []float32{8, 8}, got)
		for _, err := range []error{
			h.SaveStateFile(t.Context(), filepath.Join(file, "no folder")),
			h.LoadStateFile(t.Context(), file+"2"),
			h.LoadStateFile(t.Context(), t.TempDir()),
		} {
			assert.ErrorIs(t, err, c10d.ErrState)
			var pathError *os.PathError
			assert.ErrorAs(t, err, &pathError)
		}

		plain := hook(t, w, "hooks:scaled", worker.HookConfig{State: map[string]any{"factor": 2.5, "more": []any{1, "x", nil}}})
		copy(floats(t, b.Buffer()), []float32{2, 4})
		got, err = reduce(testutil.Soon(t), plain, b)
		require.NoError(t, err)
		assert.Equal(t, []float32{5, 10}, got)
	})
}

// A state that was loaded is where Restart goes on from: it is no step of the run.
func TestHook_LoadState_Restart(t *testing.T) {
	w := start(t, 1, worker.Config{})[0]
	b := bucket(t, w, 0)
	h := hook(t, w, "hooks:count", worker.HookConfig{State: worker.State{Spec: "hooks:Counter"}, SnapshotEvery: 1})
	step := func(want float32) {
		t.Helper()
		got, err := reduce(testutil.Soon(t), h, b)
		require.NoError(t, err)
		require.Equal(t, []float32{want}, got)
	}
	restart := func(restored int64) {
		t.Helper()
		recovery, err := w.Restart(testutil.Soon(t))
		require.NoError(t, err)
		require.Equal(t, []int64{restored}, recovery.Restored)
	}
	other := hook(t, w, "hooks:count", worker.HookConfig{State: worker.State{Spec: "hooks:Counter", Args: map[string]any{"start": 100}}})
	var saved bytes.Buffer
	require.NoError(t, other.SaveState(testutil.Soon(t), &saved))
	other.Close()

	require.NoError(t, h.LoadState(testutil.Soon(t), bytes.NewReader(saved.Bytes())))
	restart(0)
	step(101)
	step(102)
	require.NoError(t, h.LoadState(testutil.Soon(t), bytes.NewReader(saved.Bytes())))
	restart(2)
	step(101)
}

// A state that was loaded for other buckets is refused in each try of a step, also after Restore and
// Restart, and one that Python saved when the buckets change.
func TestHook_LoadState_Buckets(t *testing.T) {
	w := start(t, 1, worker.Config{})[0]
	small, large := bucket(t, w, 1, 2), bucket(t, w, 1, 2, 3)
	newHook := func(file string) *worker.Hook {
		return hook(t, w, "hooks:keep", worker.HookConfig{State: worker.State{Spec: "hooks:Kept", Args: map[string]any{"file": file}}, SnapshotEvery: 1})
	}
	call := func(h *worker.Hook, b *c10d.GradBucket) error {
		_, err := reduce(testutil.Soon(t), h, b)
		return err
	}
	restart := func() {
		t.Helper()
		_, err := w.Restart(testutil.Soon(t))
		require.NoError(t, err)
	}
	saving := newHook("")
	require.NoError(t, call(saving, large))
	var saved bytes.Buffer
	require.NoError(t, saving.SaveState(testutil.Soon(t), &saved))
	saving.Close()

	h := newHook("")
	require.NoError(t, h.Snapshot(testutil.Soon(t)))
	require.NoError(t, h.LoadState(testutil.Soon(t), &saved))
	for _, back := range []func(){func() {}, restart, func() { require.NoError(t, h.Restore(testutil.Soon(t))) }} {
		back()
		require.ErrorIs(t, call(h, small), c10d.ErrStateBuckets)
	}
	require.NoError(t, call(h, large))
	require.NoError(t, call(h, small), "a Reducer may make its buckets anew after a step")
	require.NoError(t, h.Snapshot(testutil.Soon(t)))
	require.NoError(t, h.Restore(testutil.Soon(t)))
	require.NoError(t, call(h, large))
	h.Close()

	file := filepath.Join(t.TempDir(), "python")
	saving = newHook(file)
	require.NoError(t, call(saving, large))
	saving.Close()
	h = newHook("")
	require.NoError(t, h.LoadStateFile(testutil.Soon(t), file))
	require.NoError(t, call(h, large))
	require.NoError(t, h.Snapshot(testutil.Soon(t)))
	for _, back := range []func(){func() {}, func() { require.NoError(t, h.Restore(testutil.Soon(t))) }, restart} {
		back()
		require.ErrorIs(t, call(h, small), c10d.ErrStateBuckets)
	}
	require.NoError(t, call(h, large))
	require.ErrorIs(t, call(h, small), c10d.ErrStateBuckets)
}

// What cannot be sent to the worker is refused, and the worker goes on.
func TestWorker_valuesThatCannotBeSent(t *testing.T) {
	w := shared(t)
	for name, cfg := range map[string]worker.HookConfig{
		"a state":     {State: make(chan int)},
		"an argument": {State: worker.State{Spec: "hooks:Counter", Args: map[string]any{"start": map[string]int{}}}},
		"a struct":    {State: []any{struct{ A int }{}}},
		"a nil State": {State: (*worker.State)(nil)},
		"a nil Group": {State: (*worker.Group)(nil)},
		"a duration":  {State: map[string]any{"deep": []any{time.Second}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.NewHook(testutil.Soon(t), "noop", cfg)
			require.ErrorIs(t, err, c10d.ErrBadArguments)
			require.NoError(t, w.Err())
		})
	}
	t.Run("an attribute", func(t *testing.T) {
		p := &c10d.Parameter{Name: "p", Shape: []int64{1}, DType: tensor.Float32, Attributes: map[string]any{"every": time.Second}}
		_, err := w.NewHook(testutil.Soon(t), "noop", worker.HookConfig{Parameters: []*c10d.Parameter{p}})
		require.ErrorContains(t, err, "the attributes of parameter p")
		require.NoError(t, w.Err())
	})
	t.Run("a tensor", func(t *testing.T) {
		_, err := w.Group().AllReduce(testutil.Soon(t), nil, c10d.Sum)
		require.ErrorIs(t, err, c10d.ErrGroup)
		_, err = w.Group().AllGather(testutil.Soon(t), []*tensor.Tensor{nil}, nil)
		require.ErrorIs(t, err, c10d.ErrGroup)
	})
}

func TestHookConfig_Futures(t *testing.T) {
	t.Run("NCCL's forms, also after a Restart", func(t *testing.T) {
		w := start(t, 1, worker.Config{})[0]
		b := bucket(t, w, 3, 4)
		_, err := reduce(testutil.Soon(t), hook(t, w, "hooks:mean_for_nccl", worker.HookConfig{}), b)
		require.ErrorIs(t, err, c10d.ErrShort, "gloo's form")
		h := hook(t, w, "hooks:mean_for_nccl", worker.HookConfig{Futures: pyhook.FutureFormsNCCL})
		for range 2 {
			got, err := reduce(testutil.Soon(t), h, b)
			require.NoError(t, err)
			assert.Equal(t, []float32{3, 4}, got)
			_, err = w.Restart(testutil.Soon(t))
			require.NoError(t, err)
		}
	})
}

func TestHook_RunHook_Parameters(t *testing.T) {
	t.Run("hooks see them", func(t *testing.T) {
		w := shared(t)
		for _, shared := range []bool{true, false} {
			t.Run(map[bool]string{true: "in shared memory", false: "in other memory"}[shared], func(t *testing.T) {
				data, err := tensor.New(tensor.Float32, 2)
				if shared {
					data, err = w.NewBuffer(tensor.Float32, 2)
				}
				require.NoError(t, err)
				defer data.Close()
				copy(floats(t, data), []float32{3, 4})
				p := &c10d.Parameter{Name: "p", Shape: []int64{2}, DType: tensor.Float32, Data: data}
				buffer, err := w.NewBuffer(tensor.Float32, 2)
				require.NoError(t, err)
				defer buffer.Close()
				b, err := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: buffer, Offsets: []int64{0}, Lengths: []int64{2}, Sizes: [][]int64{{2}}, Parameters: []*c10d.Parameter{p}})
				require.NoError(t, err)
				defer b.Close()
				read := hook(t, w, "hooks:weights", worker.HookConfig{})
				got, err := reduce(testutil.Soon(t), read, b)
				require.NoError(t, err)
				assert.Equal(t, []float32{3, 4}, got)
				floats(t, data)[0] = 9
				got, err = reduce(testutil.Soon(t), read, b)
				require.NoError(t, err)
				assert.Equal(t, []float32{9, 4}, got)
				if shared {
					_, err = reduce(testutil.Soon(t), hook(t, w, "hooks:add_to_weights", worker.HookConfig{}), b)
					require.NoError(t, err)
					assert.Equal(t, []float32{10, 5}, floats(t, data))
				}
				same := hook(t, w, "hooks:same_parameters", worker.HookConfig{})
				for range 2 {
					got, err = reduce(testutil.Soon(t), same, b)
					require.NoError(t, err)
				}
				assert.Equal(t, []float32{1, 1}, got, "one object for all calls")
				before := ipc.LiveRegions()
				p.Close()
				if !shared {
					testutil.Eventually(t, func() bool { return ipc.LiveRegions() < before }, "the copy of its data goes with it")
				}
				floats(t, data)[0] = 7
				got, err = reduce(testutil.Soon(t), read, b)
				require.NoError(t, err, "a closed parameter may be used again")
				assert.Equal(t, floats(t, data), got)
				p.Close()
			})
		}
	})
}

func TestGroup(t *testing.T) {
	t.Run("its collectives run in the workers", func(t *testing.T) {
		workers := start(t, 2, worker.Config{})
		for _, shared := range []bool{true, false} {
			for _, err := range onRanks(2, func(rank int) error {
				g := workers[rank].Group()
				make := func(values ...float32) *tensor.Tensor {
					b := bucket(t, map[bool]*worker.Worker{true: workers[rank], false: nil}[shared], values...)
					return b.Buffer()
				}
				wait := func(future *c10d.Future[*tensor.Tensor], err error) {
					if assert.NoError(t, err) {
						_, err = future.Wait(testutil.Soon(t))
						assert.NoError(t, err)
						future.Close()
					}
				}
				a, b := make(float32(rank), 1), make(float32(rank)+5, 1)
				// Two at once, in one order.
				first, err := g.AllReduce(testutil.Soon(t), a, c10d.Sum)
				if err != nil {
					return err
				}
				wait(g.Broadcast(testutil.Soon(t), b, 1))
				wait(first, nil)
				assert.Equal(t, []float32{1, 2}, floats(t, a))
				assert.Equal(t, []float32{6, 1}, floats(t, b))
				out := []*tensor.Tensor{make(0, 0), make(0, 0)}
				wait(g.AllGather(testutil.Soon(t), out, make(float32(rank), float32(rank))))
				assert.Equal(t, []float32{0, 0}, floats(t, out[0]))
				assert.Equal(t, []float32{1, 1}, floats(t, out[1]))
				assert.Equal(t, []any{rank, 2, "gloo"}, []any{g.Rank(), g.Size(), g.Backend()})
				_, err = g.Broadcast(testutil.Soon(t), a, 7)
				assert.ErrorIs(t, err, c10d.ErrGroup)
				return g.Barrier(testutil.Soon(t))
			}) {
				require.NoError(t, err)
			}
		}
		t.Run("a context that has ended", func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			assert.ErrorIs(t, workers[0].Group().Barrier(ctx), context.Canceled)
		})
	})
}

// TestHook_RunHook calls hooks whose futures are done at once and later, from one
// goroutine and several, at all distances in time.
func TestHook_RunHook(t *testing.T) {
	t.Run("no call is lost", func(t *testing.T) {
		w := shared(t)
		for _, callers := range []int{1, 3} {
			var group sync.WaitGroup
			for caller := range callers {
				spec := []string{"allreduce", "noop", "hooks:other"}[caller]
				h, b := hook(t, w, spec, worker.HookConfig{}), bucket(t, w, 1, 2)
				group.Go(func() {
					for i := range 2000 {
						if i%8 == 0 {
							time.Sleep(time.Duration(i%200) * time.Microsecond)
						}
						got, err := reduce(testutil.Soon(t), h, b)
						if !assert.NoError(t, err) || !assert.Equal(t, got[0]*2, got[1]) {
							return
						}
					}
				})
			}
			group.Wait()
		}
		assert.NoError(t, w.Err())
	})
}

func TestHook_RunHook_Context(t *testing.T) {
	t.Run("a wait for what comes after a call that is over ends with its context, and the worker goes on", func(t *testing.T) {
		w := shared(t)
		h, b := hook(t, w, "noop", worker.HookConfig{}), bucket(t, w, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		future, err := h.RunHook(ctx, b)
		require.NoError(t, err)
		defer future.Close()
		_, err = future.Wait(testutil.Soon(t))
		require.NoError(t, err)
		release := make(chan struct{})
		after := future.Then(func(r c10d.Result) (c10d.Result, error) {
			<-release
			return r, nil
		})
		defer after.Close()
		cancel()
		testutil.Within(t, func() { _, err = after.Wait(ctx) })
		assert.ErrorIs(t, err, c10d.ErrCanceled)
		close(release)
		_, err = reduce(testutil.Soon(t), h, b)
		assert.NoError(t, err)
	})
	t.Run("a buffer that could not be shared in time leaves nothing of it behind", func(t *testing.T) {
		w := start(t, 1, worker.Config{KeepOnCancel: true})[0]
		b := bucket(t, w, 7)
		h := hook(t, w, "hooks:count", worker.HookConfig{State: worker.State{Spec: "hooks:Counter"}})
		got, err := reduce(testutil.Soon(t), h, b)
		require.NoError(t, err)
		assert.Equal(t, []float32{1}, got)

		first := b.Buffer()
		other, err := tensor.New(tensor.Float32, 1) // of memory that the worker does not have
		require.NoError(t, err)
		defer other.Close()
		require.NoError(t, b.SetBuffer(other))
		freeze(t, w.Pid())
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err = h.RunHook(ctx, b)
		require.NoError(t, syscall.Kill(w.Pid(), syscall.SIGCONT))
		require.ErrorIs(t, err, c10d.ErrDeadline)

		require.NoError(t, b.SetBuffer(first))
		got, err = reduce(testutil.Soon(t), h, b)
		require.NoError(t, err)
		assert.Equal(t, []float32{2}, got)
		assert.Equal(t, []float32{2}, floats(t, first), "the hook's result is in the buffer")
	})
}

// freeze stops a process, and waits until all its threads have: kill returns before.
func freeze(t *testing.T, pid int) {
	t.Helper()
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	require.Eventually(t, func() bool {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		return err == nil && len(files) > 0 && !slices.ContainsFunc(files, func(file string) bool {
			stat, err := os.ReadFile(file)
			return err != nil || !strings.Contains(string(stat), ") T ")
		})
	}, 9*time.Second, time.Millisecond) // after 10 it is taken for frozen
}

// TestHook_RunHook_Concurrent has two hooks wait for the other rank within their calls, each in a
// group of its own. The ranks call them in different orders: a rank whose worker took one call at a
// time would never come to the call that the other rank waits for.
func TestHook_RunHook_Concurrent(t *testing.T) {
	t.Run("two hooks whose calls wait for each other over ranks", func(t *testing.T) {
		workers := start(t, 2, worker.Config{Timeout: 30 * time.Second})
		hooks, buckets := [2][2]*worker.Hook{}, [2][2]*c10d.GradBucket{}
		for i := range 2 {
			for _, err := range onRanks(2, func(rank int) (err error) {
				state := worker.State{Spec: "hooks:OwnGroup"}
				hooks[rank][i], err = workers[rank].NewHook(t.Context(), "hooks:summed", worker.HookConfig{State: state})
				return err
			}) {
				require.NoError(t, err)
			}
			for rank, w := range workers {
				buckets[rank][i] = bucket(t, w, float32(10*i+rank))
			}
		}
		for _, err := range onRanks(2, func(rank int) error {
			return errors.Join(onRanks(2, func(turn int) error {
				i := rank ^ turn // rank 0 calls hook 0 first, rank 1 hook 1
				time.Sleep(time.Duration(turn) * 200 * time.Millisecond)
				got, err := reduce(testutil.Soon(t), hooks[rank][i], buckets[rank][i])
				assert.Equal(t, []float32{float32(20*i + 1)}, got)
				return err
			})...)
		}) {
			assert.NoError(t, err)
		}
		for rank := range workers {
			for _, h := range hooks[rank] {
				h.Close()
			}
		}
	})
}

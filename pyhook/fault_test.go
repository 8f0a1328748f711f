package pyhook

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
)

const wording = "callback must return a torch.futures.Future object, but got "

// badHooks are faults.py's: the kind of the error, an exception that is among
// its causes, and what its message says.
var badHooks = map[string]struct {
	kind  error
	cause string
	says  string
}{
	"returns_none":              {c10d.ErrNoneResult, "RuntimeError", wording + "builtins.NoneType (None)"},
	"returns_int":               {c10d.ErrNotFuture, "RuntimeError", wording + "builtins.int"},
	"returns_tensor":            {c10d.ErrNotFuture, "", wording + "torch.Tensor"},
	"returns_work":              {c10d.ErrNotFuture, "", "hint: return the work's future"},
	"returns_coroutine":         {c10d.ErrNotFuture, "", wording + "builtins.coroutine"},
	"returns_concurrent_future": {c10d.ErrNotFuture, "", wording + "concurrent.futures._base.Future"},
	"returns_class":             {c10d.ErrNotFuture, "", "make an instance of it"},
	"returns_generator":         {c10d.ErrNotFuture, "", wording + "builtins.generator"},
	"returns_list":              {c10d.ErrNotFuture, "", wording + "builtins.list"},
	"returns_function":          {c10d.ErrNotFuture, "", "a function was returned"},

	"future_of_none":         {c10d.ErrNotTensor, "", "hint: does a `then` callback lack its `return`?"},
	"future_of_list":         {c10d.ErrNotTensor, "", "a list of 2 (Tensor, Tensor)"},
	"future_of_tuple":        {c10d.ErrNotTensor, "", "a tuple of 2 (Tensor, Tensor)"},
	"future_of_empty_list":   {c10d.ErrNotTensor, "", "a list of 0"},
	"future_of_nested_list":  {c10d.ErrNotTensor, "", "a list of 1 (list)"},
	"future_of_int":          {c10d.ErrNotTensor, "", "completed with builtins.int"},
	"future_of_array":        {c10d.ErrNotTensor, "", "hint: use torch.from_numpy(value)"},
	"future_of_short":        {c10d.ErrShort, "", "3 elements (shape (3,)) for a bucket of 5"},
	"future_of_offset_short": {c10d.ErrShort, "", "4 elements"},
	"future_of_sparse":       {c10d.ErrSparse, "", "hint: use .to_dense()"},
	"future_of_meta":         {c10d.ErrMeta, "", "holds no data"},
	"future_of_complex":      {c10d.ErrComplex, "", "the imaginary parts would be lost"},
	"future_of_real_view":    {c10d.ErrComplex, "", "real and imaginary parts in turn"},
	"future_of_future":       {c10d.ErrNotTensor, "", "a `then` callback returned a Future"},
	"future_of_exception":    {c10d.ErrFutureFailed, "ValueError", "boom as a value"},

	"future_of_text":          {c10d.ErrNotTensor, "", "completed with builtins.str"},
	"future_of_dict":          {c10d.ErrNotTensor, "", "completed with builtins.dict"},
	"future_of_bytes":         {c10d.ErrNotTensor, "", "completed with builtins.bytes"},
	"future_of_numpy_scalar":  {c10d.ErrNotTensor, "", "completed with numpy.float32"},
	"future_of_storage":       {c10d.ErrNotTensor, "", "torage"},
	"future_of_the_class":     {c10d.ErrNotTensor, "", ""},
	"future_of_work":          {c10d.ErrNotTensor, "", "Work"},
	"future_of_liar":          {c10d.ErrBadResult, "", ""},
	"future_of_dead_proxy":    {c10d.ErrBadResult, "", ""},
	"future_of_scalar":        {c10d.ErrShort, "", "1 elements"},
	"future_of_empty":         {c10d.ErrShort, "", "0 elements"},
	"future_of_csr":           {c10d.ErrSparse, "", "hint: use .to_dense()"},
	"future_of_hybrid_sparse": {c10d.ErrSparse, "", "hint: use .to_dense()"},
	"future_of_mkldnn":        {c10d.ErrLayout, "", "mkldnn"},
	"future_of_quantized":     {c10d.ErrLayout, "", "dequantize"},
	"future_of_nested":        {c10d.ErrLayout, "", ""},
	"future_of_fake":          {c10d.ErrLayout, "", ""},
	"future_of_escaped":       {c10d.ErrBadResult, "", ""},
	"future_of_freed":         {c10d.ErrLayout, "", ""},
	"future_of_raising":       {c10d.ErrBadResult, "", ""},
	"future_of_wrapper":       {c10d.ErrLayout, "", ""},
	"future_of_uninitialized": {c10d.ErrBadResult, "", ""},

	"raises":                      {c10d.ErrRaised, "ValueError", "ValueError: boom in the hook"},
	"raises_system_exit":          {c10d.ErrRaised, "SystemExit", "SystemExit: 3"},
	"raises_keyboard_interrupt":   {c10d.ErrRaised, "KeyboardInterrupt", "KeyboardInterrupt"},
	"raises_unprintable":          {c10d.ErrRaised, "faults.Unprintable", "<str() of the exception raised KeyError>"},
	"raises_in_then":              {c10d.ErrFutureFailed, "ValueError", "boom in then"},
	"raises_in_nested_then":       {c10d.ErrFutureFailed, "ValueError", "boom in then"},
	"exits_in_then":               {c10d.ErrFutureFailed, "SystemExit", "SystemExit"},
	"sets_exception":              {c10d.ErrFutureFailed, "ValueError", "ValueError: boom by set_exception"},
	"sets_exception_before_then":  {c10d.ErrFutureFailed, "ValueError", "boom"},
	"fails_on_a_thread":           {c10d.ErrFutureFailed, "ValueError", "ValueError: late boom"},
	"fails_in_then_on_a_thread":   {c10d.ErrFutureFailed, "ZeroDivisionError", "division by zero"},
	"none_on_a_thread":            {c10d.ErrNotTensor, "", "completed with None"},
	"resizes_and_raises":          {c10d.ErrRaised, "ValueError", "boom"},
	"swaps_data_and_returns_none": {c10d.ErrNoneResult, "", wording + "builtins.NoneType"},
	"resizes_and_fails":           {c10d.ErrFutureFailed, "ValueError", "boom"},
}

// The table above is what docs/faults.md counts.
func TestTheMalformedResultsAreMany(t *testing.T) {
	results := 0
	for name := range badHooks {
		if strings.HasPrefix(name, "returns_") || strings.HasPrefix(name, "future_of_") {
			results++
		}
	}
	t.Logf("%d malformed results, %d other bad hooks, %d guests", results, len(badHooks)-results, len(guests))
	assert.GreaterOrEqual(t, results, 47)
	assert.GreaterOrEqual(t, len(badHooks)-results, 15)
	assert.GreaterOrEqual(t, len(guests), 38)
}

// saysAll asserts that err is a *c10d.Error that says all a user needs.
func saysAll(t *testing.T, err error, kind error, hook string, bucket int) {
	t.Helper()
	saysAllOf(t, err, kind, "hook "+hook, bucket)
}

// saysAllOf is saysAll of a hook, or of a state.
func saysAllOf(t *testing.T, err error, kind error, op string, bucket int) {
	t.Helper()
	require.Error(t, err)
	var e *c10d.Error
	require.ErrorAs(t, err, &e)
	require.ErrorIs(t, err, kind)
	assert.Equal(t, [3]any{op, 0, bucket}, [3]any{e.Op, e.Rank, e.Bucket}, "hook, rank and bucket")
	assert.NotEmpty(t, e.Hint)
	parts := []string{op + ", rank 0", "\nhint: " + e.Hint}
	if bucket >= 0 {
		parts[0] += ", bucket 2: "
	}
	for _, part := range parts {
		assert.Contains(t, err.Error(), part)
	}
}

// leaky: in a `then` callback that re-raises what set_exception was given, the
// exception's frames hold the future and the future, in C++ where Python's
// collector cannot see it, the exception. torch leaks that without us too.
const leaky = "sets_exception_before_then"

func TestABadHookIsATypedErrorAndTheNextStepWorks(t *testing.T) {
	for name, bad := range badHooks {
		check := check
		if name == leaky {
			check = func(t *testing.T, name string, f func(*testing.T)) { t.Helper(); t.Run(name, f) }
		}
		check(t, name, func(t *testing.T) {
			b := bucket(t, []float32{1, 2}, []float32{3, 4, 5})
			h := load(t, "faults:"+name, HookConfig{})
			good := load(t, "sample:doubled", HookConfig{})
			for range 2 {
				_, err := run(t, h, b)
				saysAll(t, err, bad.kind, "faults."+name, 2)
				assert.Contains(t, err.Error(), bad.says)
				if bad.cause != "" {
					require.ErrorIs(t, err, Exception(bad.cause))
				}
				assert.Equal(t, []float32{1, 2, 3, 4, 5}, values(t, b.Buffer()), "the buffer is untouched")
			}
			python(t, "faults.mend", true)
			defer python(t, "faults.mend", false)
			for _, hook := range []*PythonCommHook{good, h} {
				got, err := run(t, hook, b)
				require.NoError(t, err)
				assert.Equal(t, []float32{2, 4, 6, 8, 10}, got)
			}
		})
	}
}

func TestAnExceptionKeepsItsTraceback(t *testing.T) {
	_, err := run(t, load(t, "faults:raises", HookConfig{}), bucket(t, []float32{1}))
	var raised *PythonError
	require.ErrorAs(t, err, &raised)
	assert.Equal(t, "boom in the hook", raised.Message)
	assert.Regexp(t, `faults\.py", line \d+, in throw`, raised.Traceback)

	_, err = run(t, load(t, "faults:raises_in_then", HookConfig{}), bucket(t, []float32{1}))
	require.ErrorAs(t, err, &raised)
	require.NotNil(t, raised.Cause, "what PyTorch made a RuntimeError of")
	assert.Equal(t, [2]string{"ValueError", "boom in then"}, [2]string{raised.Cause.Type, raised.Cause.Message})
	assert.Contains(t, raised.Cause.Traceback, "faults.py")
}

func TestRunHookDoesNotCallWithACancelledContext(t *testing.T) {
	leaks.Check(t, func() {
		t.Run("", func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(context.Background())
			cancel(errors.New("the job was preempted"))
			h := load(t, "sample:doubled_in_place", HookConfig{})
			b := bucket(t, []float32{1, 2})
			_, err := h.RunHook(ctx, b)
			saysAll(t, err, context.Canceled, "sample.doubled_in_place", 2)
			assert.Contains(t, err.Error(), "the job was preempted")
			assert.Equal(t, []float32{1, 2}, values(t, b.Buffer()))
		})
	})
}

func TestWaitingMayEndBeforeTheFutureDoes(t *testing.T) {
	check(t, "by a deadline", func(t *testing.T) {
		h := load(t, "sample:pending", HookConfig{})
		b := bucket(t, []float32{1, 2})
		future, err := h.RunHook(context.Background(), b)
		require.NoError(t, err)
		defer future.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		_, err = future.Wait(ctx)
		saysAll(t, err, context.DeadlineExceeded, "sample.pending", 2)

		assert.Equal(t, int64(1), python(t, "sample.finish"))
		value, err := future.Wait(context.Background())
		require.NoError(t, err, "what was started went on")
		assert.Same(t, b.Buffer(), tensorIn(value))
	})
	check(t, "by a cancellation with a cause", func(t *testing.T) {
		future, _ := c10d.NewFuture[c10d.Result]()
		ctx, cancel := context.WithCancelCause(context.Background())
		cause := errors.New("preempted")
		cancel(cause)
		_, err := future.Wait(ctx)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, cause)
	})
}

func TestUseAfterCloseSaysSo(t *testing.T) {
	check(t, "of the hook", func(t *testing.T) {
		h, b := load(t, "sample:identity", HookConfig{}), bucket(t, []float32{1})
		h.Close()
		h.Close()
		_, err := run(t, h, b)
		saysAll(t, err, c10d.ErrClosed, "sample.identity", 2)
	})
	check(t, "of the bucket", func(t *testing.T) {
		h, b := load(t, "sample:identity", HookConfig{}), bucket(t, []float32{1})
		b.Close()
		b.Close()
		_, err := run(t, h, b)
		saysAll(t, err, c10d.ErrClosed, "sample.identity", 2)
		require.ErrorIs(t, b.SetBuffer(b.Buffer()), c10d.ErrClosed)
	})
	for _, called := range []bool{false, true} {
		name := map[bool]string{false: "of the buffer", true: "of the buffer, after a step"}[called]
		check(t, name, func(t *testing.T) {
			h, b := load(t, "sample:identity", HookConfig{}), bucket(t, []float32{1})
			if called {
				_, err := run(t, h, b)
				require.NoError(t, err)
			}
			b.Buffer().Close()
			_, err := run(t, h, b)
			saysAll(t, err, c10d.ErrClosed, "sample.identity", 2)
		})
	}
	check(t, "of the buffer, before the result is read", func(t *testing.T) {
		h, b := load(t, "sample:identity", HookConfig{}), bucket(t, []float32{1})
		future, err := h.RunHook(context.Background(), b)
		require.NoError(t, err)
		value, err := future.Wait(context.Background())
		require.NoError(t, err)
		b.Buffer().Close()
		_, err = h.ParseHookResult(b, value)
		saysAll(t, err, c10d.ErrClosed, "sample.identity", 2)
	})
	check(t, "of the future", func(t *testing.T) {
		h, b := load(t, "sample:doubled", HookConfig{}), bucket(t, []float32{1})
		future, err := h.RunHook(context.Background(), b)
		require.NoError(t, err)
		value, err := future.Wait(context.Background())
		require.NoError(t, err)
		future.Close()
		future.Close()
		_, err = h.ParseHookResult(b, value)
		saysAll(t, err, c10d.ErrClosed, "sample.doubled", 2)
	})
}

func TestOnlyValuesOfHookFuturesAreResults(t *testing.T) {
	h, b := load(t, "sample:identity", HookConfig{}), bucket(t, []float32{1})
	for _, other := range []c10d.Result{nil, c10d.TensorResult{}, c10d.SparseResult{}, &pythonResult{}} {
		_, err := h.ParseHookResult(b, other)
		saysAll(t, err, c10d.ErrBadResult, "sample.identity", 2)
	}
}

func TestATorchlessDTypeIsTheBucketsFault(t *testing.T) {
	check(t, "", func(t *testing.T) {
		b := bucket(t, []float32{1})
		b.Parameters()[0].DType = 200
		_, err := run(t, load(t, "sample:identity", HookConfig{}), b)
		saysAll(t, err, c10d.ErrBucket, "sample.identity", 2)
	})
}

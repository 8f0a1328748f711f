package pyhook

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/tensor"
	"pyhook/tests/deep"
)

// failures are those of testdata/failing.py, by number; 0: none.
var failures = []struct {
	kind error
	says string // of the call's number
}{{}, {c10d.ErrRaised, "boom %d in the call"}, {c10d.ErrFutureFailed, "boom %d in the future"}, {c10d.ErrShort, "1 elements"}, {c10d.ErrNoneResult, ""}, {c10d.ErrFutureFailed, "boom %d in then"}, {c10d.ErrNotTensor, "call %d's text"}}

// TestOneCallInAHundredFails at random, in one of several ways. Each failure is
// reported by its own call and by no other, and every other result is right.
func TestOneCallInAHundredFails(t *testing.T) {
	n := slow.Of(min(deep.Times(t, 50_000), 1_000_000))
	check(t, fmt.Sprint(n, " calls"), func(t *testing.T) {
		b := bucket(t, []float32{0, 0}, []float32{0})
		h := load(t, "failing:sometimes", HookConfig{State: map[string]any{}})
		buffer, err := tensor.Slice[float32](b.Buffer())
		require.NoError(t, err)
		random := rand.New(rand.NewPCG(1, 2))
		failed := 0
		calls := func(n int) {
			for i := range n {
				if i%50_000 == 0 {
					python(t, "gc.collect") // tracebacks make rings, which Python's collector seldom looks for
				}
				kind := 0
				if random.IntN(100) == 0 {
					kind = 1 + random.IntN(len(failures)-1)
					failed++
				}
				buffer[0], buffer[1], buffer[2] = float32(i), float32(kind), 7
				failingCall(t, h, b, i, kind)
				if buffer[0] != float32(i) || buffer[1] != float32(kind) || buffer[2] != 7 {
					t.Fatalf("call %d: the buffer became %v", i, buffer)
				}
			}
		}
		calls(max(n/5, slow.Of(20_000))) // until errors, too, have had their memory
		failed = 0
		leavesNothing(t, h, b, func() { calls(n) })
		t.Logf("%d of %d calls failed", failed, n)
	})
}

// failingCall makes call number i. Its asserts cost nothing while all is well: there
// are many calls.
func failingCall(t *testing.T, h *PythonCommHook, b *c10d.GradBucket, i, kind int) {
	t.Helper()
	want := failures[kind]
	got, err := quickRun(h, b)
	switch {
	case want.kind != nil:
		saysAll(t, err, want.kind, "failing.sometimes", 2)
		if want.says != "" {
			says := want.says
			if says != "1 elements" {
				says = fmt.Sprintf(says, i)
			}
			require.Contains(t, err.Error(), says)
		}
	case err != nil:
		t.Fatalf("call %d: %v", i, err)
	case got != [3]float32{float32(2 * i), 0, 14}:
		t.Fatalf("call %d: the result is %v", i, got)
	}
}

// quickRun is run, of three elements.
func quickRun(h *PythonCommHook, b *c10d.GradBucket) (got [3]float32, err error) {
	future, err := h.RunHook(context.Background(), b)
	if err != nil {
		return got, err
	}
	defer future.Close()
	value, err := future.Wait(context.Background())
	if err != nil {
		return got, err
	}
	result, err := h.ParseHookResult(b, value)
	if err != nil {
		return got, err
	}
	defer result.Close()
	s, err := tensor.Slice[float32](result)
	copy(got[:], s)
	return got, err
}

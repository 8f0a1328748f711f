package cbridge

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// python is the one interpreter of this test process.
var python *Interpreter

func TestMain(m *testing.M) {
	var err error
	python, err = Start(context.Background(), Config{Path: []string{"testdata"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("Python %s from %s (%s)\n", python.Version, python.Library, python.Python.Source)
	os.Exit(m.Run())
}

// eval runs an expression and returns the result.
func eval(t *testing.T, expression string) *Object {
	t.Helper()
	builtins, err := python.Import("builtins")
	require.NoError(t, err)
	defer builtins.Close()
	o, err := builtins.Call("eval", expression, map[string]any{})
	require.NoError(t, err)
	t.Cleanup(o.Close)
	return o
}

// noLeaks asserts that f leaves no handle, Go function or deferred work open.
func noLeaks(t *testing.T, f func()) {
	t.Helper()
	objects, funcs := LiveObjects(), LiveFuncs()
	f()
	assert.Eventually(t, func() bool {
		runtime.GC()
		_ = Attached(func() {}) // an enter does the deferred work
		return LiveObjects() == objects && LiveFuncs() == funcs
	}, 10*time.Second, 10*time.Millisecond, "handles or Go functions left open")
	assert.Equal(t, objects, LiveObjects())
	assert.Equal(t, funcs, LiveFuncs())
}

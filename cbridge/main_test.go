package cbridge

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"pyhook/internal/ctest"
	"pyhook/internal/testutil"
)

// python is the one interpreter of this test process.
var python *Interpreter

// childCase names, in the environment of a re-executed test binary, the case
// that it is to run instead of the tests.
const childCase = "PYHOOK_CBRIDGE_CHILD"

// onlyExample is the childCase in which an Example starts Python itself.
const onlyExample = "example"

// children are the cases that need a process without an interpreter.
var children = map[string]func(*require.Assertions){}

func TestMain(m *testing.M) {
	name := os.Getenv(childCase)
	if name == onlyExample {
		os.Exit(m.Run())
	}
	if name != "" {
		children[name](require.New(testutil.Child{}))
		os.Exit(0)
	}
	flag.Parse()
	skip := "^ExampleStart$" // it has a process of its own
	if users := flag.Lookup("test.skip").Value.String(); users != "" {
		skip = users + "|" + skip
	}
	_ = flag.Set("test.skip", skip)
	var err error
	python, err = Start(context.Background(), Config{Path: []string{"testdata"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("Python %s from %s (%s)\n", python.Version, python.Library, python.Python.Source)
	os.Exit(m.Run())
}

// runChild runs a case in a process of its own, with this process's Python
// unless env says otherwise, and returns what it wrote to its stdout.
func runChild(t *testing.T, name string, env ...string) string {
	t.Helper()
	cmd := childCommand(t, name, env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err, "the child said:\n%s", out)
	return string(out)
}

// childCommand is runChild's command.
func childCommand(t *testing.T, name string, env ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^ExampleStart$")
	cmd.Env = append(os.Environ(), childCase+"="+name, "PYHOOK_PYTHON="+python.Python.Executable)
	cmd.Env = append(cmd.Env, env...)
	return cmd
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

// value runs an expression and returns the result as a Go value.
func value(t *testing.T, expression string) any {
	t.Helper()
	o := eval(t, expression)
	defer o.Close()
	v, err := o.Value()
	require.NoError(t, err)
	return v
}

// module runs source as a module for the test's duration.
func module(t *testing.T, source string) *Object {
	t.Helper()
	name := fmt.Sprintf("test_module_%d", time.Now().UnixNano())
	o, err := python.Module(name, source)
	require.NoError(t, err)
	t.Cleanup(func() {
		o.Close()
		value(t, fmt.Sprintf("__import__('sys').modules.pop(%q) and None", name))
	})
	return o
}

// call calls o's function and returns the result as a Go value.
func call(t *testing.T, o *Object, name string, args ...any) any {
	t.Helper()
	v, err := o.CallValue(name, args...)
	require.NoError(t, err)
	return v
}

// handles are what must come back to its start.
type handles struct{ Objects, Funcs int64 }

var leaks = testutil.Leaks[handles]{Collect: runtime.GC, Counts: func() handles {
	_ = Attached(func() {}) // an enter does the deferred work
	return handles{LiveObjects(), LiveFuncs()}
}}

// often is how often a test calls that looks for slow leaks and races.
func often(n int) int { return testutil.Scale{Debug: 200}.Of(n) }

// bridge gives the tests' C code functions of this package.
func bridge() *ctest.Bridge { return ctest.NewBridge(functions()) }

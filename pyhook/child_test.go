package pyhook

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/tensor"
)

func init() {
	children["torch is missing"] = childNoTorch
	children["libpython is missing"] = childNoLibrary
	children["close"] = childClose
}

func TestASecondRuntimeIsRefused(t *testing.T) {
	_, err := Start(context.Background(), Config{})
	require.ErrorIs(t, err, ErrRunning)
	got, err := run(t, load(t, "noop", HookConfig{}), bucket(t, []float32{1}))
	require.NoError(t, err)
	assert.Equal(t, []float32{1}, got)
}

func TestTheRuntimeSaysWhatItRunsOn(t *testing.T) {
	info := rt.Info()
	for _, text := range []string{info.Python, info.PythonFrom, info.Version, info.Library, info.Prefix, info.Torch} {
		assert.NotEmpty(t, text)
	}
	environment, err := rt.Environment()
	require.NoError(t, err)
	assert.Equal(t, info.Torch, environment["torch"])
	assert.Contains(t, environment["backends"], "gloo")
}

func TestAnInterpreterWithoutTorchIsRefusedWithAHint(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "venv")
	out, err := exec.Command(rt.Info().Python, "-m", "venv", "--without-pip", folder).CombinedOutput()
	require.NoError(t, err, "%s", out)
	interpreter := filepath.Join(folder, "bin", "python")
	said := runChild(t, "torch is missing", "PYHOOK_PYTHON="+interpreter, "PYTHONPATH=")
	for _, part := range []string{interpreter, "torch", "PYHOOK_PYTHON"} {
		assert.Contains(t, said, part)
	}
}

func childNoTorch(is *require.Assertions) {
	_, err := Start(context.Background(), Config{})
	var discovery *DiscoveryError
	is.ErrorAs(err, &discovery)
	is.NotEmpty(discovery.Hint)
	fmt.Println(err)
}

func TestAMissingLibraryIsNamed(t *testing.T) {
	said := runChild(t, "libpython is missing")
	assert.Contains(t, said, "/no/such/libpython.so")
}

func childNoLibrary(is *require.Assertions) {
	_, err := Start(context.Background(), Config{Library: "/no/such/libpython.so"})
	var discovery *DiscoveryError
	is.ErrorAs(err, &discovery)
	is.NotEmpty(discovery.Hint)
	fmt.Println(err)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Start(cancelled, Config{})
	is.ErrorIs(err, context.Canceled)
	rt, err := Start(context.Background(), Config{}) // a failed start may be tried again
	is.NoError(err)
	is.NoError(rt.Close())
}

func TestCloseEndsWhatIsPendingAndUseAfterwardsSaysSo(t *testing.T) {
	assert.Equal(t, "atexit ran\n", runChild(t, "close"))
}

func childClose(is *require.Assertions) {
	rt, _ := started(is)
	buffer, err := tensor.New(tensor.Float32, 2)
	is.NoError(err)
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: buffer})
	is.NoError(err)
	pending, err := rt.NewHook(context.Background(), "sample:pending", HookConfig{})
	is.NoError(err)
	doubled, err := rt.NewHook(context.Background(), "sample:doubled", HookConfig{})
	is.NoError(err)
	future, err := pending.RunHook(context.Background(), b)
	is.NoError(err)
	finished, err := doubled.RunHook(context.Background(), b)
	is.NoError(err)
	value, err := finished.Wait(context.Background())
	is.NoError(err)
	m, err := rt.interpreter.Module("exits", "import atexit\natexit.register(print, 'atexit ran')\n"+
		"import sample, threading, time\nthreading.Thread(target=lambda: (time.sleep(0.3), sample.finish()), daemon=True).start()\n")
	is.NoError(err)
	waiting := make(chan error)
	go func() {
		_, err := future.Then(func(v c10d.Result) (c10d.Result, error) { return v, nil }).Wait(context.Background())
		waiting <- err
	}()

	is.NoError(rt.Close())
	is.NoError(rt.Close())
	err = <-waiting
	is.ErrorIs(err, c10d.ErrClosed)
	is.ErrorContains(err, "hook sample.pending, bucket 0: ")
	time.Sleep(500 * time.Millisecond) // and then Python completes it after all

	_, err = doubled.RunHook(context.Background(), b)
	is.ErrorIs(err, c10d.ErrClosed)
	_, err = doubled.ParseHookResult(b, value)
	is.ErrorIs(err, c10d.ErrClosed)
	_, err = rt.NewHook(context.Background(), "noop", HookConfig{})
	is.ErrorIs(err, c10d.ErrClosed)
	_, err = rt.NewState(context.Background(), "powersgd", nil, nil)
	is.ErrorIs(err, c10d.ErrClosed)
	_, err = rt.InitProcessGroup(context.Background(), GroupConfig{Backend: "gloo", Size: 1})
	is.ErrorIs(err, c10d.ErrClosed)
	_, err = Start(context.Background(), Config{})
	is.ErrorIs(err, ErrRunning, "Python cannot be had again")
	future.Close()
	finished.Close()
	for _, closer := range []interface{ Close() }{pending, doubled, b, buffer, m} {
		closer.Close()
	}
	is.LessOrEqual(cbridge.LiveObjects(), int64(40), "only what the packages keep")
}

func TestExamplesRunInProcessesOfTheirOwn(t *testing.T) {
	for _, example := range []string{"Example", "ExampleRuntime_NewHook", "ExampleStateSpec"} {
		t.Run(example, func(t *testing.T) {
			cmd := child(t, onlyExample)
			cmd.Args = append(cmd.Args, "-test.run=^"+example+"$", "-test.v")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			assert.Contains(t, string(out), "--- PASS: "+example)
		})
	}
}

func TestRankComesFromTheEnvironment(t *testing.T) {
	for value, want := range map[string]int{"3": 3, "": -1, "x": -1} {
		t.Setenv("RANK", value)
		assert.Equal(t, want, rankFromEnvironment())
	}
	require.NoError(t, os.Unsetenv("RANK"))
	assert.Equal(t, -1, rankFromEnvironment())
}

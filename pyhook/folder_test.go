package pyhook

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/tensor"
)

func init() { children["a state in another folder"] = childState }

// childState saves, or loads, the state of a hook of a file in the working directory.
func childState(require *require.Assertions) {
	ctx := context.Background()
	rt, err := Start(ctx, Config{})
	require.NoError(err)
	defer rt.Close()
	group, err := rt.InitProcessGroup(ctx, GroupConfig{Backend: "gloo", Size: 1})
	require.NoError(err)
	defer group.Close()
	p := &c10d.Parameter{Name: "w", Shape: []int64{2}, DType: tensor.Float32}
	defer p.Close()
	hook, err := rt.NewHook(context.Background(), "hooks.py:feedback", HookConfig{State: StateSpec{Spec: "hooks.py:Feedback"}, Parameters: []*c10d.Parameter{p}})
	require.NoError(err)
	defer hook.Close()
	file := os.Getenv("STATE_FILE")
	_, err = os.Stat(file)
	if err == nil {
		require.NoError(hook.LoadStateFile(context.Background(), file))
	}
	gradients := []float32{1, 2}
	buffer, err := tensor.FromSlice(gradients)
	require.NoError(err)
	defer buffer.Close()
	bucket, err := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: buffer, Offsets: []int64{0}, Lengths: []int64{2}, Sizes: [][]int64{{2}}, Parameters: []*c10d.Parameter{p}})
	require.NoError(err)
	defer bucket.Close()
	future, err := hook.RunHook(ctx, bucket)
	require.NoError(err)
	_, err = future.Wait(ctx)
	require.NoError(err)
	require.NoError(hook.SaveStateFile(context.Background(), file))
	fmt.Println(gradients)
}

// Each process adds what the one before left, found by id(parameter).
func TestAStateOfOneFolderLoadsInAnother(t *testing.T) {
	source := `
import torch

class Part:
    steps = 0

class Feedback:
    def __init__(self, parameters):
        self.parameters, self.part = parameters, Part()
        self.left = {id(p): torch.zeros(p.shape) for p in parameters}

def feedback(state, bucket):
    for p, gradient in zip(bucket.parameters(), bucket.gradients()):
        state.left[id(p)] += gradient
        gradient.copy_(state.left[id(p)])
    state.part.steps += 1
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future
`
	root := t.TempDir()
	for i, folder := range []string{"first", filepath.Join("other", "checkout"), "third"} {
		dir := filepath.Join(root, folder)
		require.NoError(t, os.MkdirAll(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "hooks.py"), []byte(source), 0o600))
		cmd := child(t, "a state in another folder", "STATE_FILE="+filepath.Join(root, "state"))
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		assert.Contains(t, string(out), fmt.Sprintf("[%d %d]", i+1, 2*(i+1)))
	}
}

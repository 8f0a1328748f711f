package pyhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/tensor"
)

func init() {
	children["what is left"] = childLeaves
	children["a thread without end"] = childNeverEnds
}

// runOnce calls a hook once, on a thread of Go's, in a process of its own.
func runOnce(is *require.Assertions, rt *Runtime, spec string) {
	buffer, err := tensor.New(tensor.Float32, 2)
	is.NoError(err)
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: buffer})
	is.NoError(err)
	h, err := rt.NewHook(context.Background(), spec, HookConfig{})
	is.NoError(err)
	future, err := h.RunHook(context.Background(), b)
	is.NoError(err)
	_, err = future.Wait(context.Background())
	is.NoError(err)
	h.Close()
}

func childLeaves(is *require.Assertions) {
	rt, _ := started(is)
	runOnce(is, rt, "endings:leaves")
	is.NoError(rt.Close())
}

func TestCloseWritesWhatHooksLeave(t *testing.T) {
	folder := t.TempDir()
	assert.Empty(t, runChild(t, "what is left", "PYHOOK_TEST_OUT="+folder))
	for name, want := range map[string]string{
		"log.csv": "step,norm\n", "table.csv": "1,2\n", "pool": "done\n", "thread": "done\n", "atexit": "done\n",
	} {
		got, err := os.ReadFile(filepath.Join(folder, name))
		require.NoError(t, err)
		assert.Equal(t, want, string(got), name)
	}
	out, err := exec.Command("gzip", "-dc", filepath.Join(folder, "zipped.gz")).Output()
	require.NoError(t, err, "it has its end")
	assert.Equal(t, "a line\n", string(out))
}

func childNeverEnds(is *require.Assertions) {
	rt, err := Start(context.Background(), Config{Path: []string{"testdata"}, ExitWait: time.Second, Output: Output{Writer: io.Discard}})
	is.NoError(err)
	runOnce(is, rt, "endings:never_ends")
	begin := time.Now()
	err = rt.Close()
	is.Less(time.Since(begin), 10*time.Second)
	is.ErrorIs(err, ErrExitTimeout)
	var e *ExitError
	is.True(errors.As(err, &e))
	is.Equal([]string{"thread uploader"}, e.Waiting)
	fmt.Println("closed")
}

func TestCloseNamesAThreadThatNeverEnds(t *testing.T) {
	assert.Equal(t, "closed\n", runChild(t, "a thread without end"))
}

package simdevice_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/tests/simdevice"
)

// PyTorch's own DistributedDataParallel is right on the device, with the bits that it has on the CPU,
// and hooks that forget an order are wrong there. One of those is PyTorch's: powerSGD_hook lets go of
// memory that a callback's stream still reads.
func TestStockDDP(t *testing.T) {
	device := simdevice.Get(t)
	const size = 2
	store := filepath.Join(t.TempDir(), "store")
	var ranks [size]*exec.Cmd
	var stdout, stderr [size]bytes.Buffer
	for rank := range ranks {
		cmd := device.Command("testdata/stock.py", strconv.Itoa(rank), strconv.Itoa(size), store)
		cmd.Stdout, cmd.Stderr = &stdout[rank], &stderr[rank]
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		ranks[rank] = cmd
	}
	var results [size]map[string]map[string]string
	for rank, cmd := range ranks {
		require.NoError(t, cmd.Wait(), stderr[rank].String())
		require.NoError(t, json.Unmarshal(stdout[rank].Bytes(), &results[rank]), stdout[rank].String())
	}
	wrong := map[string]bool{"own_stream_unknown": true, "powersgd_freed": true}
	require.Len(t, results[0], 9)
	for hook, got := range results[0] {
		t.Run(hook, func(t *testing.T) {
			if wrong[hook] {
				assert.NotEqual(t, got["cpu"], got["sim"])
				return
			}
			assert.Equal(t, got["cpu"], got["sim"])
			if hook != "own_stream" { // that reduces nothing
				assert.Equal(t, got["sim"], results[1][hook]["sim"], "the ranks")
			}
		})
	}
}

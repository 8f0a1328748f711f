package simdevice_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/tests/simdevice"
)

// The cases are functions of testdata/device.py; one process runs them all.
func TestDevice(t *testing.T) {
	cmd := simdevice.Get(t).Command("testdata/device.py")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	var failed map[string]string
	require.NoError(t, json.Unmarshal(out, &failed), string(out))
	require.GreaterOrEqual(t, len(failed), 20)
	for name, trace := range failed {
		t.Run(name, func(t *testing.T) { assert.Empty(t, trace) })
	}
}

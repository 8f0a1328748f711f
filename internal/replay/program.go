package replay

import (
	"pyhook/internal/hookspec"
	"pyhook/internal/trace"
)

// Program returns a Go program that sets up a recording's last layout, its hook and its state.
func Program(folder string, m *trace.Manifest, given hookspec.Spec) (string, error) {
	return "", nil
}

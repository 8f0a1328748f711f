//go:build !cgo

package cbridge

// Without cgo this import fails with a sentence that says so, and nothing here is compiled.
import _ "pyhook/internal/memory"

//go:build !cgo

package tensorconv

// Without cgo this import fails with a sentence that says so, and nothing here is compiled.
import _ "pyhook/cbridge"

//go:build pyhookdebug

package cbridge

import "runtime"

// maybeGC collects garbage at each use of a handle, so that a reference kept
// only by luck is dropped where a test sees it: go test -tags pyhookdebug.
func maybeGC() { runtime.GC() }

//go:build !pyhookdebug

package cbridge

// maybeGC does nothing; see gc_debug.go.
func maybeGC() {}

//go:build pyhookdebug

package debuggc

import "runtime"

// On says whether the program was built with the tag.
const On = true

// Collect runs Go's garbage collector.
func Collect() { runtime.GC() }

//go:build !pyhookdebug

package debuggc

// On says whether the program was built with the tag.
const On = false

// Collect does nothing.
func Collect() {}

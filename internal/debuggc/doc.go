// Package debuggc collects garbage at each use of a handle on C's or Python's
// memory, where a program is built with the tag pyhookdebug: a reference that was
// kept only by luck is then dropped where a test sees it. Without the tag it is
// nothing. The idea is that of wasmtime-go's maybe_gc files.
package debuggc

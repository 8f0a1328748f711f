//go:build !cgo

package memory

// Without cgo the compiler stops here, with this sentence, and not in the files that miss the
// ones that cgo makes.
var _ int = "pyhook needs cgo: unset CGO_ENABLED, or set it to 1, and have a C compiler on PATH (on Debian: apt-get install build-essential)"

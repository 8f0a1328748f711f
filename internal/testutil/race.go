//go:build race

package testutil

// Race says whether the race detector is built in. Its own memory grows with each goroutine that
// ever was (about 300 bytes), so the size of a process says nothing under it.
const Race = true

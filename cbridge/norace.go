//go:build !race

package cbridge

// SkipDestructors does nothing: without the race detector Go ends a process without C's exit.
func SkipDestructors() {}

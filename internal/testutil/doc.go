// Package testutil holds what tests of several packages share: deadlines, waiting for a condition,
// leak checks, a free port, what a process says, and how often a long test repeats in builds that
// are slow.
//
// It imports none of pyhook's packages except debuggc and freeport, so that the tests inside any
// package can use it: each gives Leaks its own counts.
package testutil

//go:build race

package cbridge

// #include <stdlib.h>
// #include <unistd.h>
//
// static void end(int status, void *unused) { _exit(status); }
//
// static void pyh_end_at_exit(void) { on_exit(end, NULL); }
import "C"

// SkipDestructors makes a process that ends well under the race detector end as it does without it.
// The detector calls C's exit, and then the destructors of all libraries that were loaded before
// SkipDestructors would run: torch's take a tenth of the time of its import, while threads of torch
// are still running. What the detector found is printed before, and the status is its own.
func SkipDestructors() { C.pyh_end_at_exit() }

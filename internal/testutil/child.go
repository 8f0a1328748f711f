package testutil

import (
	"fmt"
	"os"
)

// Child is the TestingT of a process that a test started to run a case. The first failure is
// printed to stdout and ends the process with status 1.
type Child struct{}

// Errorf prints a failure.
func (Child) Errorf(format string, args ...any) { fmt.Printf(format, args...) }

// FailNow ends the process.
func (Child) FailNow() { os.Exit(1) }

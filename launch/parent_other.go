//go:build !linux

package launch

// DieWithParent checks that the parent is still there and returns
// ErrParentGone when it is not. Only Linux can have the kernel end a process
// with its parent.
func DieWithParent() error { return checkParent() }

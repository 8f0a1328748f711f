//go:build !linux

package launch

// DieWithParent returns an error when the parent has ended. Only Linux can kill a
// process when its parent ends.
func DieWithParent() error { return checkParent() }

package testutil

import "pyhook/internal/debuggc"

// Scale says by how much slow builds divide the number of repetitions of a long test. Zero is one.
type Scale struct {
	Race  int // under the race detector
	Debug int // with the tag pyhookdebug, which collects garbage at each use of a handle
}

// FullSpeed says that nothing in this build is slow, so that times, memory and allocations can be
// measured.
const FullSpeed = !Race && !debuggc.On

// Of returns n in a build at full speed, and a part of it, but at least 4, in a slow one.
func (s Scale) Of(n int) int {
	by := 1
	switch {
	case debuggc.On:
		by = s.Debug
	case Race:
		by = s.Race
	}
	if by <= 1 {
		return n
	}
	return max(n/by, min(n, 4))
}

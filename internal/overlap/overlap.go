// Package overlap finds memory that two results would be written to, of which one would be lost.
package overlap

import (
	"cmp"
	"slices"
)

// Range is memory from Low up to, not including, High. Of is whose it is: ranges of one owner may
// overlap.
type Range struct {
	Low, High uintptr
	Of        int
}

// Find returns two owners whose ranges share a byte. It sorts the list.
func Find(list []Range) (a, b int, found bool) {
	slices.SortFunc(list, func(x, y Range) int { return cmp.Compare(x.Low, y.Low) })
	var last Range // of those before, the one that reaches furthest
	for _, next := range list {
		if next.Low >= next.High {
			continue
		}
		if next.Low < last.High && next.Of != last.Of {
			return min(last.Of, next.Of), max(last.Of, next.Of), true
		}
		if next.High > last.High {
			last = next
		}
	}
	return 0, 0, false
}

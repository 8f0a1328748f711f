package tensorconv

import "unsafe"

// Room returns how many elements New allocates for a flat tensor of n: see
// WithRoom.
func Room(n int64) int64 { return squareFrom(n) }

// FromPointerWithRoom is FromPointer for n elements, flat and on the CPU, of memory
// that has room for more of them: see WithRoom.
func FromPointerWithRoom(data unsafe.Pointer, dtype DType, n, room int64, release func()) (*Tensor, error) {
	if room < n {
		return nil, &Error{Op: "from pointer", Why: "less room than elements"}
	}
	t, err := FromPointer(data, dtype, []int64{n}, nil, Device{}, release)
	if err != nil {
		return nil, err
	}
	if n > 0 {
		t.spare = room - n
	}
	return t, nil
}

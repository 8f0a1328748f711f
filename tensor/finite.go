package tensor

// #include "finite.h"
import "C"

// FirstNonFinite returns the row-major index of the first element of a CPU tensor that is NaN or
// infinite, or -1. Integers and bools never are.
func FirstNonFinite(t *Tensor) (int64, error) {
	if err := t.use(); err != nil {
		return -1, err
	}
	defer t.done()
	if !t.Device().IsCPU() {
		return -1, &Error{Op: "look for NaN", Why: "not CPU memory"}
	}
	if !t.IsContiguous() {
		plain, err := New(t.dtype, t.shape...)
		if err != nil {
			return -1, err
		}
		defer plain.Close()
		if err := Copy(plain, t); err != nil {
			return -1, err
		}
		return FirstNonFinite(plain)
	}
	return int64(C.pyh_first_nonfinite(t.data, C.int(t.dtype), C.int64_t(t.Len()))), nil
}

package tensor

import (
	"fmt"
	"slices"
)

// ViewAsComplex is torch.view_as_complex: it returns a handle on the memory of a contiguous float32
// or float64 tensor whose last dimension has the two parts of a complex number. The caller closes
// it.
func ViewAsComplex(t *Tensor) (*Tensor, error) {
	if err := t.use(); err != nil {
		return nil, err
	}
	defer t.done()
	dtype, last := Invalid, len(t.shape)-1
	switch t.dtype {
	case Float32:
		dtype = Complex64
	case Float64:
		dtype = Complex128
	}
	if dtype == Invalid || last < 0 || t.shape[last] != 2 || !t.IsContiguous() {
		return nil, &Error{Op: "view as complex", Why: fmt.Sprintf("%s of strides %v is not contiguous, of float32 or float64, with 2 in the last dimension", t, t.strides)}
	}
	t.owner.Retain()
	shape := slices.Clone(t.shape[:last])
	return newTensor(t.data, dtype, t.device, shape, contiguous(shape), t.owner), nil
}

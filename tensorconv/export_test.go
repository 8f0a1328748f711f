package tensorconv

import (
	"pyhook/cbridge"
	"pyhook/tensor"
)

// MaxDims is for tests.
const MaxDims = maxDims

// Capsule makes the capsule that ToPython hands to a torch without the exchange API.
func Capsule(t *tensor.Tensor) (*cbridge.Object, error) {
	owner, err := t.Retain()
	if err != nil {
		return nil, err
	}
	defer owner.Release()
	return describe(t, t.DType()).Capsule(owner)
}

package pyhook

import (
	"fmt"
	"slices"

	"pyhook/tensor"
)

const complexHint = "use a torch whose DDP can (2.14 and later), a Go hook or none, or give the parts as a real parameter of shape [..., 2] (torch.view_as_real)"

// ComplexParameters says whether this hook's torch reduces complex parameters: its
// DistributedDataParallel gives hooks a real bucket with both parts of each number
// (torch 2.14 and later). Older ones cannot: the error is a *HookError, ErrComplex.
// Package ddp asks, before it makes buckets of such parameters.
func (h *PythonCommHook) ComplexParameters() error {
	refusal, err := h.rt.bridge.CallValue("complex_refusal")
	if err != nil {
		return h.fail(nil, ErrComplex, err)
	}
	if text, ok := refusal.(string); ok {
		return &HookError{Hook: h.name, Rank: h.rt.Rank(), Bucket: -1, Kind: ErrComplex, Detail: text, Hint: complexHint}
	}
	return nil
}

// fitsParameter says whether a gradient of that size in a buffer of that dtype can be
// p's: of its shape, or with the two parts of complex numbers in a last dimension more.
func fitsParameter(p *Parameter, buffer tensor.DType, size []int64) bool {
	if slices.Equal(p.Shape, size) {
		return true
	}
	n := len(p.Shape)
	return p.DType.IsComplex() && buffer == p.DType.Real() && len(size) == n+1 && size[n] == 2 && slices.Equal(p.Shape, size[:n])
}

// notComplex is the error of a Go hook that would lose imaginary parts; nil: it would not.
func notComplex(t *tensor.Tensor) error {
	if !t.DType().IsComplex() {
		return nil
	}
	return fmt.Errorf("%w: %s: half precision has no complex numbers, and the imaginary parts would be lost\nhint: give the real view, as package ddp does", ErrComplex, t)
}

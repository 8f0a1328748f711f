package pyhook

import (
	"pyhook/c10d"
)

const complexHint = "use a torch whose DDP can (2.14 and later), a Go hook or none, or give the parts as a real parameter of shape [..., 2] (torch.view_as_real)"

// ComplexParameters returns an error if this hook's torch cannot reduce complex parameters: its
// DistributedDataParallel gives hooks a real bucket with both parts of each number
// (torch 2.14 and later). The error is a *c10d.Error, c10d.ErrComplex. Package ddp calls it
// before it makes buckets of such parameters.
func (h *PythonCommHook) ComplexParameters() error {
	refusal, err := h.rt.bridge.CallValue("complex_refusal")
	if err != nil {
		return h.fail(nil, c10d.ErrComplex, err)
	}
	if text, ok := refusal.(string); ok {
		return &c10d.Error{Op: "hook " + h.name, Rank: h.rt.Rank(), Bucket: -1, Code: c10d.ErrComplex, Detail: text, Hint: complexHint}
	}
	return nil
}

// Package tensorconv exchanges tensors with Python without copying, by DLPack: ToPython makes a
// torch.Tensor over a Go tensor's bytes, FromPython a Go tensor over those of torch, numpy and
// whatever else has __dlpack__.
//
// Both hold a reference on the memory, so that either may be closed first: see package tensor.
package tensorconv

// Package tensorconv describes memory as tensors and exchanges it with Python
// without copying, by DLPack.
//
// It knows memory, dtypes and DLPack, and nothing of hooks or process groups.
//
//	Go slice ─FromSlice─┐                      ┌─ Python() ──▶ torch.Tensor
//	C memory ─New───────┼─▶ Tensor ──views──▶──┤   (same bytes)
//	any pointer ────────┘   (owner: counted)   └─ FromPython ◀─ torch, numpy
//
// Ownership: every Tensor, and every Python tensor made from one, holds the
// memory's owner. The memory is released when the last of them is gone: C
// memory is freed, a Go slice is unpinned, a foreign pointer's release function
// is called (soon after, on a goroutine of this package). Closing the Go Tensor
// while Python still holds the memory is therefore safe.
package tensorconv

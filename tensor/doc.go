// Package tensor describes memory as tensors: a dtype, a shape, strides and a device over bytes
// that Go, C or Python holds. It knows nothing of Python; package tensorconv exchanges tensors
// with it.
//
//	Go slice ── FromSlice ──┐
//	C memory ── New ────────┼──▶ Tensor ── View, Alias ──▶ Tensor (same bytes)
//	any pointer ─ FromPointer ┘
//
// Ownership: every Tensor, and every Python tensor made from one, holds a reference on the memory.
// It is released when the last of them is gone: C memory is freed, a Go slice is unpinned, a
// foreign pointer's release function is called (soon after, on a goroutine of its own). Closing
// the Go Tensor while Python still holds the memory is therefore safe.
package tensor

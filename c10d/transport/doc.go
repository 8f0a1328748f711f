// Package transport makes a process group of whatever a trainer has to move memory between its
// ranks: a Transport becomes a c10d.ProcessGroup for hooks in Go, and by
// pyhook.Runtime.InstallTransport torch.distributed's default group for hooks in Python.
//
// Experimental: the interfaces may change.
package transport

// Package c10d has the contracts of distributed gradient reduction: what a hook, a bucket of
// gradients, a process group and a future are. It knows nothing of Python. The names and their
// meaning are those of PyTorch's c10d (torch/csrc/distributed/c10d: comm.hpp, ProcessGroup.hpp).
//
//	package ddp ──▶ CommHook.RunHook(GradBucket) ──▶ Future[Result] ──▶ CommHook.ParseHookResult
//	                     │
//	                     ├─ c10d/hooks          hooks in Go
//	                     ├─ pyhook              hooks in Python, in this process
//	                     └─ worker              hooks in Python, in a process of their own
//
// A ProcessGroup is torch.distributed's (pyhook.TorchGroup), or a trainer's own (c10d/transport).
package c10d

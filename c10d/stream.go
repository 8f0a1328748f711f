package c10d

// Stream is a stream of the trainer's on a GPU: a cudaStream_t (hipStream_t); 0
// is the device's default one. The trainer's library must use the device's
// primary context, as the CUDA runtime does and torch.
//
// A bucket whose buffer is on a GPU is ordered by it, and by nothing else, as
// PyTorch's reducer orders its own. The hook is called with the stream current:
// what it enqueues comes after whatever wrote the gradients there before
// RunHook. When the future of RunHook is done, the result may not have been
// computed yet, but what is enqueued on the stream after that comes after it:
// ParseHookResult and the trainer's optimizer need not wait. To read a result
// on the CPU, synchronise the stream first. Close what ParseHookResult returned
// when the work that reads it is enqueued.
//
// Only a Python hook takes such a bucket: Go's own hooks, package ddp and
// package worker have theirs on the CPU.
//
// Experimental: not yet run on a GPU. tests/gpu/run.sh of the repository does.
type Stream uintptr

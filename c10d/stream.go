package c10d

// Stream is a stream of the trainer's on a device: a cudaStream_t (hipStream_t), a sycl::queue* on
// XPU, what torch.<name>.ExternalStream takes on a private backend, or, without that, a
// torch.Stream's stream_id; 0 is the device's default one. The trainer's library must use the
// device's primary context, as the CUDA runtime does and torch.
//
// A bucket whose buffer is on a device is ordered by a stream, and by nothing else, as PyTorch's
// reducer orders its own. The hook is called with the stream current: what it enqueues comes after
// whatever wrote the gradients there before RunHook. When the future of RunHook is done, the result
// may not have been computed yet, but what is enqueued on the stream after that comes after it:
// ParseHookResult and the trainer's optimizer need not wait. To read a result on the CPU,
// synchronise the stream first. Close what ParseHookResult returned when the work that reads it is
// enqueued.
//
// ddp.Reducer calls hooks with a stream of its own current, which waits for the trainer's
// (DeviceMemory).
type Stream uintptr

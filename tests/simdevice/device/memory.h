// Memory: each device's memory is mapped twice. Tensors have addresses of the first mapping, which
// nobody may read or write; work on a device's queue uses the second, which nobody else knows.

#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>

#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>
#include <c10/core/Stream.h>

namespace sim {

c10::Allocator *allocator();
c10::Allocator *pinned_allocator();
bool is_pinned(const void *address);

// mapped is a CPU tensor over the device's own mapping of a tensor's elements. It keeps nothing
// alive, as a kernel does not: memory that is freed before the work ran is another's by then.
at::Tensor mapped(const at::Tensor &t);

// device_of is the index of the device whose memory has the address, or -1.
c10::DeviceIndex device_of(const void *address);

// Shared is a contiguous tensor's memory for another process: this one's id, its file of the device's
// memory, the device, and the offset there and the size in bytes. It keeps nothing alive.
using Shared = std::tuple<int64_t, int, int, int64_t, int64_t>;
Shared share(const at::Tensor &t);
// open_shared maps it, and returns its bytes. While the process lives that share was called in.
at::Tensor open_shared(Shared s);

void record_stream(const c10::DataPtr &data, c10::Stream stream);
void set_limit(c10::DeviceIndex index, size_t bytes); // more is out of memory
void set_reuse(bool on); // off: freed memory stays as it is
size_t allocated(c10::DeviceIndex index);

} // namespace sim

#pragma once

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

namespace sim {

// over_gloo makes a backend of torch.distributed for the device's tensors over one for the CPU's.
c10::intrusive_ptr<c10d::Backend> over_gloo(c10::intrusive_ptr<c10d::Backend> gloo);

} // namespace sim

#pragma once

#include <vector>

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

namespace sim {

using Backends = std::vector<c10::intrusive_ptr<c10d::Backend>>;

// over_gloo makes a backend of torch.distributed for the device's tensors, over one for the CPU's for
// each device.
c10::intrusive_ptr<c10d::Backend> over_gloo(Backends gloo);

} // namespace sim

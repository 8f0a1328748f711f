#pragma once

#include <atomic>
#include <cstdint>

namespace sim {

struct Counters {
  std::atomic<int64_t> from_host{0}, to_host{0}; // bytes copied
  std::atomic<int64_t> waits{0};                 // operations that the fallback had to wait for
};
Counters &counters();

} // namespace sim

// Queues: what a stream of the simulated device is.
//
// A queue runs its work in order, on a thread of its own, and late: a piece of work waits until its
// queue is demanded (the host waits for it, or a demanded queue does), or until its delay is over. So
// a consumer that does not wait for its producer reads what was there before, every time, and a right
// program loses no time.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

namespace sim {

constexpr c10::DeviceIndex devices = 2;
constexpr c10::DeviceType type = c10::DeviceType::PrivateUse1;
constexpr int pool_size = 32; // streams of a device, beside its default stream

inline c10::Device device(c10::DeviceIndex index) { return {type, index}; }

class Queue;

// A Moment is a place in a queue's work: all that was enqueued before it is done once done is set.
struct Moment {
  std::atomic<bool> done{false};
  std::atomic<int64_t> time_ns{0};
  Queue *queue = nullptr;
  uint64_t number = 0;
  std::vector<Queue *> waiting; // with the mutex held
};
using MomentPtr = std::shared_ptr<Moment>;

// Threads' current device and current streams.
c10::DeviceIndex current_device();
void set_current_device(c10::DeviceIndex index);
c10::Stream current_stream(c10::DeviceIndex index);
c10::Stream exchange_stream(c10::Stream stream); // returns the one before
c10::Stream stream_of_pool(c10::DeviceIndex index);

void enqueue(c10::Stream stream, std::function<void()> work);
MomentPtr record(c10::Stream stream);
void wait(c10::Stream stream, MomentPtr moment); // the stream waits, the caller does not
bool is_idle(c10::Stream stream);
void *handle(c10::Stream stream);

// The caller waits. What failed on the device since the last such call is thrown.
void synchronize(c10::Stream stream);
void synchronize(const MomentPtr &moment);
void synchronize_device(c10::DeviceIndex index);

int64_t launches();        // pieces of work enqueued so far, waits and records aside
void set_delay(double ms); // PYHOOK_SIM_DELAY_MS
void set_late(int which);  // PYHOOK_SIM_LATE: 0 all streams, 1 the default streams, 2 the others
void stop();               // at the process's end: threads end after the work at hand

} // namespace sim

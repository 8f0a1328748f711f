#include "queue.h"

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <random>
#include <thread>

#include <c10/util/Exception.h>

namespace sim {
namespace {

using Clock = std::chrono::steady_clock;

struct Work {
  uint64_t number;
  Clock::time_point start; // when it runs if nobody demands it earlier
  std::function<void()> run;
  MomentPtr waits, marks;
};

// Everything below is never destroyed: threads outlive main.
std::mutex &mutex = *new std::mutex;
std::condition_variable &ended = *new std::condition_variable; // some work: the host waits for that
std::array<std::exception_ptr, devices> &failures = *new std::array<std::exception_ptr, devices>;
std::mt19937_64 &random = *new std::mt19937_64(getenv("PYHOOK_SIM_SEED") ? atoll(getenv("PYHOOK_SIM_SEED")) : 1);
std::atomic<int64_t> launched{0};
std::atomic<bool> stopping{false};
std::atomic<double> delay_ms{getenv("PYHOOK_SIM_DELAY_MS") ? atof(getenv("PYHOOK_SIM_DELAY_MS")) : 200};
std::atomic<int> late{0};

} // namespace

class Queue {
public:
  Queue(c10::DeviceIndex device, bool is_default) : device_(device), is_default_(is_default) {}

  void push(std::function<void()> run, MomentPtr waits, const MomentPtr &marks) {
    std::unique_lock lock(mutex);
    Work work{++enqueued_, Clock::now(), std::move(run), std::move(waits), marks};
    if (delay_ms > 0 && is_late()) {
      std::uniform_real_distribution<double> share(0.5, 1);
      work.start += std::chrono::microseconds(int64_t(1000 * delay_ms * share(random)));
    }
    if (marks) {
      marks->queue = this;
      marks->number = work.number;
    }
    work_.push_back(std::move(work));
    if (!started_) {
      started_ = true;
      std::thread([this] { loop(); }).detach();
    }
    wake_.notify_one();
  }

  c10::DeviceIndex device() const { return device_; }
  bool is_idle_locked() const { return finished_ == enqueued_; }
  uint64_t enqueued_locked() const { return enqueued_; }

  void demand_locked(uint64_t number) {
    if (number > demanded_) {
      demanded_ = number;
      wake_.notify_one();
    }
  }

  void wake() { wake_.notify_one(); }

  void synchronize_locked(std::unique_lock<std::mutex> &lock, uint64_t number) {
    demand_locked(number);
    ended.wait(lock, [&] { return finished_ >= number || stopping; });
  }

private:
  bool is_late() const { return late == 0 || (late == 1) == is_default_; }

  // may_run says whether the first piece of work may run, and demands what it waits for if it is
  // demanded itself.
  bool may_run_locked() {
    const Work &work = work_.front();
    bool demanded = work.number <= demanded_;
    if (!demanded && Clock::now() < work.start)
      return false;
    if (!work.waits || work.waits->done)
      return true;
    work.waits->waiting.push_back(this);
    if (demanded && work.waits->queue)
      work.waits->queue->demand_locked(work.waits->number);
    return false;
  }

  void loop() {
    std::unique_lock lock(mutex);
    while (!stopping) {
      if (work_.empty()) {
        wake_.wait(lock);
        continue;
      }
      if (!may_run_locked()) {
        if (Clock::now() < work_.front().start)
          wake_.wait_until(lock, work_.front().start);
        else
          wake_.wait(lock);
        continue;
      }
      Work work = std::move(work_.front());
      work_.pop_front();
      lock.unlock();
      std::exception_ptr failure;
      try {
        if (work.run)
          work.run();
      } catch (...) {
        failure = std::current_exception();
      }
      work.run = nullptr; // what it holds is let go of before it counts as done
      if (work.marks) {
        work.marks->time_ns = Clock::now().time_since_epoch().count();
        work.marks->done = true;
      }
      lock.lock();
      if (failure && !failures[device_])
        failures[device_] = failure;
      finished_ = work.number;
      if (work.marks)
        for (Queue *waiting : std::exchange(work.marks->waiting, {}))
          waiting->wake();
      ended.notify_all();
    }
  }

  const c10::DeviceIndex device_;
  const bool is_default_;
  bool started_ = false;
  std::condition_variable wake_;
  uint64_t enqueued_ = 0, finished_ = 0, demanded_ = 0;
  std::deque<Work> work_;
};

namespace {

// throw_failure_locked throws what failed on the device since the last time.
void throw_failure_locked(c10::DeviceIndex index) {
  if (auto failure = std::exchange(failures[index], nullptr))
    std::rethrow_exception(failure);
}

using Queues = std::array<std::unique_ptr<Queue>, pool_size + 1>;

std::array<Queues, devices> &all_queues() {
  static auto *all = [] {
    auto *made = new std::array<Queues, devices>;
    for (int device = 0; device < devices; device++)
      for (int id = 0; id <= pool_size; id++)
        (*made)[device][id] = std::make_unique<Queue>(device, id == 0);
    return made;
  }();
  return *all;
}

Queue &queue(c10::Stream stream) {
  TORCH_CHECK(stream.device_type() == type && stream.device_index() >= 0 && stream.device_index() < devices,
              "no stream of the simulated device: ", stream);
  auto &queues = all_queues()[stream.device_index()];
  if (stream.id() >= 0 && stream.id() <= pool_size)
    return *queues[stream.id()];
  for (auto &q : queues) // an external stream: its id is its handle
    if (reinterpret_cast<c10::StreamId>(q.get()) == stream.id())
      return *q;
  TORCH_CHECK(false, "invalid resource handle: no stream of sim:", int(stream.device_index()), ": ", stream);
}

thread_local c10::DeviceIndex thread_device = 0;
thread_local std::array<c10::StreamId, devices> thread_streams{};

} // namespace

c10::DeviceIndex current_device() { return thread_device; }

void set_current_device(c10::DeviceIndex index) {
  TORCH_CHECK(index >= 0 && index < devices, "there is no device sim:", int(index));
  thread_device = index;
}

c10::Stream current_stream(c10::DeviceIndex index) {
  if (index < 0)
    index = thread_device;
  TORCH_CHECK(index < devices, "there is no device sim:", int(index));
  return c10::Stream(c10::Stream::UNSAFE, device(index), thread_streams[index]);
}

c10::Stream exchange_stream(c10::Stream stream) {
  queue(stream); // or it throws
  auto before = current_stream(stream.device_index());
  thread_streams[stream.device_index()] = stream.id();
  return before;
}

c10::Stream stream_of_pool(c10::DeviceIndex index) {
  static std::array<std::atomic<uint32_t>, devices> next{};
  if (index < 0)
    index = thread_device;
  TORCH_CHECK(index < devices, "there is no device sim:", int(index));
  return c10::Stream(c10::Stream::UNSAFE, device(index), 1 + next[index]++ % pool_size);
}

void enqueue(c10::Stream stream, std::function<void()> work) {
  launched++;
  queue(stream).push(std::move(work), nullptr, nullptr);
}

MomentPtr record(c10::Stream stream) {
  auto moment = std::make_shared<Moment>();
  queue(stream).push(nullptr, nullptr, moment);
  return moment;
}

void wait(c10::Stream stream, MomentPtr moment) { queue(stream).push(nullptr, std::move(moment), nullptr); }

bool is_idle(c10::Stream stream) {
  std::lock_guard lock(mutex);
  return queue(stream).is_idle_locked();
}

void *handle(c10::Stream stream) { return &queue(stream); }

void synchronize(c10::Stream stream) {
  std::unique_lock lock(mutex);
  auto &q = queue(stream);
  q.synchronize_locked(lock, q.enqueued_locked());
  throw_failure_locked(stream.device_index());
}

void synchronize(const MomentPtr &moment) {
  std::unique_lock lock(mutex);
  if (!moment->queue)
    return;
  moment->queue->synchronize_locked(lock, moment->number);
  throw_failure_locked(moment->queue->device());
}

void synchronize_device(c10::DeviceIndex index) {
  TORCH_CHECK(index >= 0 && index < devices, "there is no device sim:", int(index));
  std::unique_lock lock(mutex);
  for (auto &q : all_queues()[index])
    q->synchronize_locked(lock, q->enqueued_locked());
  throw_failure_locked(index);
}

int64_t launches() { return launched; }
void set_delay(double ms) { delay_ms = ms; }
void set_late(int which) { late = which; }

void stop() {
  stopping = true;
  std::lock_guard lock(mutex);
  ended.notify_all();
  for (auto &queues : all_queues())
    for (auto &q : queues)
      q->wake();
}

} // namespace sim

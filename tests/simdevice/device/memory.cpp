#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/CachingDeviceAllocator.h>

#include "queue.h"

namespace sim {
namespace {

constexpr size_t reserved = size_t(1) << 36; // addresses of a device; memory comes as it is touched
constexpr size_t alignment = 512;

struct Block {
  char *address; // of the mapping that nobody may touch
  size_t size;
  c10::DeviceIndex device;
  c10::StreamId stream;              // current where it was allocated: reused there at once
  std::vector<c10::StreamId> others; // streams that it was recorded on
};

// Space is a device's memory as this process has mapped it: its own, or another process's.
struct Space {
  int file = -1; // of the memory
  char *outside = nullptr, *inside = nullptr;
  size_t used = 0; // what is beyond is nobody's

  void map() {
    auto twice = [&](int protection) {
      void *p = mmap(nullptr, reserved, protection, MAP_SHARED | MAP_NORESERVE, file, 0);
      TORCH_CHECK(p != MAP_FAILED, "no memory for the simulated device: ", strerror(errno));
      madvise(p, reserved, MADV_DONTDUMP);
      return static_cast<char *>(p);
    };
    outside = twice(PROT_NONE);
    inside = twice(PROT_READ | PROT_WRITE);
  }
  bool has(const void *p) const { return p >= outside && p < outside + reserved; }
};

struct Device : Space {
  size_t allocated = 0, peak = 0, limit = reserved;
  std::map<std::pair<c10::StreamId, size_t>, std::vector<char *>> free;
  std::vector<std::pair<Block, std::vector<MomentPtr>>> pending; // freed, in use by other streams
};

std::mutex &mutex = *new std::mutex;
std::unordered_map<void *, Block> &blocks = *new std::unordered_map<void *, Block>;

Device *made_devices() {
  auto *made = new Device[devices];
  for (int i = 0; i < devices; i++) {
    int file = made[i].file = memfd_create("simdevice", MFD_CLOEXEC);
    TORCH_CHECK(file >= 0 && ftruncate(file, reserved) == 0, "no memory for sim:", i, ": ", strerror(errno));
    made[i].map();
  }
  return made;
}

Device &device_at(c10::DeviceIndex index) {
  static Device *all = made_devices();
  return all[index];
}

// Other processes' memory that open_shared mapped, by their ids; it stays mapped.
std::array<std::map<int64_t, Space>, devices> &others = *new std::array<std::map<int64_t, Space>, devices>;

// space_of finds whose memory of the device has the address; nullptr: nobody's.
const Space *space_of(c10::DeviceIndex index, const void *p) {
  if (device_at(index).has(p))
    return &device_at(index);
  std::lock_guard lock(mutex);
  for (auto &[_, space] : others[index])
    if (space.has(p))
      return &space;
  return nullptr;
}

char *inside(c10::DeviceIndex index, const void *p) {
  auto *space = space_of(index, p);
  TORCH_CHECK(space, "an illegal memory access was encountered: ", p, " is no memory of sim:", int(index));
  return space->inside + (static_cast<const char *>(p) - space->outside);
}

c10::Stream stream_of(const Block &b) { return c10::Stream(c10::Stream::UNSAFE, device(b.device), b.stream); }

std::atomic<bool> reuse{true};

// poison fills a block with NaNs (of every floating type) in the order of its stream: what is read
// from memory that was freed, or before it was written, shows.
void poison(const Block &b) {
  auto &d = device_at(b.device);
  char *address = d.inside + (b.address - d.outside);
  enqueue(stream_of(b), [address, size = b.size] { memset(address, 0xff, size); });
}

void reuse_locked(const Block &b) {
  if (!reuse)
    return; // it stays as it is for ever
  poison(b);
  device_at(b.device).free[{b.stream, b.size}].push_back(b.address);
}

void poll_locked(Device &d) {
  auto in_use = [](const auto &freed) {
    return std::any_of(freed.second.begin(), freed.second.end(), [](auto &m) { return !m->done; });
  };
  for (size_t i = 0; i < d.pending.size();) {
    if (in_use(d.pending[i])) {
      i++;
      continue;
    }
    reuse_locked(d.pending[i].first);
    d.pending.erase(d.pending.begin() + i);
  }
}

void release(void *address) {
  std::lock_guard lock(mutex);
  auto found = blocks.find(address);
  if (found == blocks.end())
    return;
  Block b = std::move(found->second);
  blocks.erase(found);
  auto &d = device_at(b.device);
  d.allocated -= b.size;
  if (b.others.empty())
    return reuse_locked(b);
  std::vector<MomentPtr> moments;
  for (auto id : b.others)
    moments.push_back(record(c10::Stream(c10::Stream::UNSAFE, device(b.device), id)));
  d.pending.emplace_back(std::move(b), std::move(moments));
}

struct Allocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t n) override {
    auto index = current_device();
    if (n == 0)
      return {nullptr, nullptr, &release, device(index)};
    size_t size = (n + alignment - 1) / alignment * alignment;
    auto &d = device_at(index);
    auto stream = current_stream(index);
    std::lock_guard lock(mutex);
    poll_locked(d);
    size_t capacity = std::min(d.limit, reserved);
    TORCH_CHECK_WITH(OutOfMemoryError, d.allocated + size <= capacity, "sim:", int(index), " is out of memory: ", n,
                     " bytes are wanted, ", d.allocated, " of ", capacity, " are in use");
    Block b{nullptr, size, index, stream.id(), {}};
    auto &kept = d.free[{stream.id(), size}];
    if (!kept.empty()) {
      b.address = kept.back();
      kept.pop_back();
    } else {
      TORCH_CHECK_WITH(OutOfMemoryError, d.used + size <= reserved, "sim:", int(index), " has no addresses left");
      b.address = d.outside + d.used;
      d.used += size;
      memset(d.inside + (b.address - d.outside), 0xff, size); // nobody's work is on it yet
    }
    d.allocated += size;
    d.peak = std::max(d.peak, d.allocated);
    void *address = b.address;
    blocks.emplace(address, std::move(b));
    return {address, address, &release, device(index)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void *to, const void *from, size_t n) const override {
    auto index = device_of(to);
    char *a = inside(index, to);
    const char *b = inside(index, from);
    enqueue(current_stream(index), [a, b, n] { memcpy(a, b, n); });
  }

  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr &data, c10::Stream stream) override { record_stream(data, stream); }

  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex index) override {
    std::lock_guard lock(mutex);
    c10::CachingDeviceAllocator::DeviceStats stats;
    auto &d = device_at(index);
    stats.allocated_bytes[0].current = d.allocated;
    stats.allocated_bytes[0].peak = d.peak;
    stats.reserved_bytes[0].current = stats.reserved_bytes[0].peak = d.used;
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex index) override {
    std::lock_guard lock(mutex);
    device_at(index).peak = device_at(index).allocated;
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex index) override {
    std::lock_guard lock(mutex);
    auto &d = device_at(index);
    return {d.limit - std::min(d.limit, d.allocated), d.limit};
  }
};

std::mutex &pinned_mutex = *new std::mutex;
std::map<char *, size_t> &pinned = *new std::map<char *, size_t>;

void release_pinned(void *address) {
  {
    std::lock_guard lock(pinned_mutex);
    pinned.erase(static_cast<char *>(address));
  }
  free(address);
}

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    if (n == 0)
      return {nullptr, nullptr, &release_pinned, c10::kCPU};
    void *p = aligned_alloc(64, (n + 63) / 64 * 64);
    TORCH_CHECK(p, "no pinned memory");
    std::lock_guard lock(pinned_mutex);
    pinned[static_cast<char *>(p)] = n;
    return {p, p, &release_pinned, c10::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release_pinned; }
  void copy_data(void *to, const void *from, size_t n) const override { default_copy_data(to, from, n); }
};

} // namespace

c10::Allocator *allocator() {
  static auto *a = new Allocator;
  return a;
}

c10::Allocator *pinned_allocator() {
  static auto *a = new PinnedAllocator;
  return a;
}

bool is_pinned(const void *address) {
  auto *p = static_cast<char *>(const_cast<void *>(address));
  std::lock_guard lock(pinned_mutex);
  auto after = pinned.upper_bound(p);
  if (after == pinned.begin())
    return false;
  auto [start, size] = *std::prev(after);
  return p < start + size;
}

c10::DeviceIndex device_of(const void *address) {
  for (int i = 0; i < devices; i++)
    if (space_of(i, address))
      return i;
  return -1;
}

at::Tensor mapped(const at::Tensor &t) {
  auto options = at::TensorOptions().dtype(t.scalar_type()).device(c10::kCPU);
  if (t.numel() == 0)
    return at::empty_strided(t.sizes(), t.strides(), options);
  auto index = t.device().index();
  auto *p = static_cast<char *>(const_cast<void *>(t.const_data_ptr()));
  size_t extent = 1;
  for (int64_t i = 0; i < t.dim(); i++)
    extent += (t.size(i) - 1) * t.stride(i);
  auto *space = space_of(index, p);
  TORCH_CHECK(space && p + extent * t.itemsize() <= space->outside + space->used, "an illegal memory access was encountered: ",
              static_cast<void *>(p), " is no memory of sim:", int(index));
  auto result = at::from_blob(space->inside + (p - space->outside), t.sizes(), t.strides(), options);
  result._set_conj(t.is_conj());
  result._set_neg(t.is_neg());
  return result;
}

void record_stream(const c10::DataPtr &data, c10::Stream stream) {
  handle(stream); // or it throws: release must not
  std::lock_guard lock(mutex);
  auto found = blocks.find(data.get_context());
  if (found == blocks.end() || data.get_deleter() != &release)
    return; // not of this allocator, as CUDA's
  auto &b = found->second;
  if (stream.id() != b.stream && std::find(b.others.begin(), b.others.end(), stream.id()) == b.others.end())
    b.others.push_back(stream.id());
}

Shared share(const at::Tensor &t) {
  auto index = t.device().index();
  auto &d = device_at(index);
  auto *p = static_cast<const char *>(t.const_data_ptr());
  TORCH_CHECK(t.is_contiguous(), "only contiguous tensors are shared");
  TORCH_CHECK(!p || d.has(p), static_cast<const void *>(p), " is no memory that this process has of sim:", int(index));
  return {getpid(), d.file, index, p ? p - d.outside : 0, int64_t(t.nbytes())};
}

at::Tensor open_shared(Shared s) {
  auto [process, file, index, offset, bytes] = s;
  TORCH_CHECK(index >= 0 && index < devices && offset >= 0 && bytes >= 0 && size_t(offset + bytes) <= reserved, "no shared memory");
  auto options = at::TensorOptions().dtype(at::kByte).device(device(index));
  if (bytes == 0)
    return at::empty({0}, options);
  char *p;
  {
    std::lock_guard lock(mutex);
    auto [found, is_new] = others[index].try_emplace(process);
    auto &space = found->second;
    if (is_new) {
      auto path = "/proc/" + std::to_string(process) + "/fd/" + std::to_string(file);
      space.file = open(path.c_str(), O_RDWR | O_CLOEXEC);
      if (space.file < 0) {
        others[index].erase(found);
        TORCH_CHECK(false, "no shared memory of process ", process, ": ", strerror(errno));
      }
      space.map();
    }
    space.used = std::max(space.used, size_t(offset + bytes));
    p = space.outside + offset;
  }
  return at::from_blob(p, {bytes}, options);
}

void set_limit(c10::DeviceIndex index, size_t bytes) {
  std::lock_guard lock(mutex);
  device_at(index).limit = bytes ? bytes : reserved;
}

void set_reuse(bool on) { reuse = on; }

size_t allocated(c10::DeviceIndex index) {
  std::lock_guard lock(mutex);
  return device_at(index).allocated;
}

} // namespace sim

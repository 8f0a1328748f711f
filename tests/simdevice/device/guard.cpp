// What torch asks a backend for: devices, streams, events, allocators, generators.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "memory.h"
#include "queue.h"

namespace sim {
namespace {

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return sim::type; }
  c10::Device exchangeDevice(c10::Device d) const override {
    auto before = getDevice();
    setDevice(d);
    return before;
  }
  c10::Device getDevice() const override { return device(current_device()); }
  void setDevice(c10::Device d) const override {
    if (d.index() >= 0)
      set_current_device(d.index());
  }
  void uncheckedSetDevice(c10::Device d) const noexcept override {
    if (d.index() >= 0 && d.index() < devices)
      set_current_device(d.index());
  }
  c10::Stream getStream(c10::Device d) const override { return current_stream(d.index()); }
  c10::Stream getDefaultStream(c10::Device d) const override {
    return c10::Stream(c10::Stream::DEFAULT, device(d.index() < 0 ? current_device() : d.index()));
  }
  c10::Stream getStreamFromGlobalPool(c10::Device d, bool) const override { return stream_of_pool(d.index()); }
  c10::Stream getNewStream(c10::Device d, int) const override { return stream_of_pool(d.index()); }
  c10::Stream exchangeStream(c10::Stream s) const override { return exchange_stream(s); }
  void *getStreamNativeHandle(c10::Stream s) const override { return handle(s); }
  c10::DeviceIndex deviceCount() const noexcept override { return devices; }
  bool queryStream(const c10::Stream &s) const override { return is_idle(s); }
  void synchronizeStream(const c10::Stream &s) const override { synchronize(s); }
  void synchronizeDevice(c10::DeviceIndex index) const override { synchronize_device(index); }
  void recordDataPtrOnStream(const c10::DataPtr &data, const c10::Stream &s) const override { record_stream(data, s); }

  // An event is a MomentPtr on the heap.
  static MomentPtr &moment(void *event) { return *static_cast<MomentPtr *>(event); }
  void record(void **event, const c10::Stream &s, c10::DeviceIndex, c10::EventFlag) const override {
    if (!*event)
      *event = new MomentPtr;
    moment(*event) = sim::record(s);
  }
  void block(void *event, const c10::Stream &s) const override {
    if (event)
      sim::wait(s, moment(event));
  }
  bool queryEvent(void *event) const override { return !event || moment(event)->done; }
  void synchronizeEvent(void *event) const override {
    if (event)
      synchronize(moment(event));
  }
  void destroyEvent(void *event, c10::DeviceIndex) const noexcept override { delete static_cast<MomentPtr *>(event); }
  double elapsedTime(void *a, void *b, c10::DeviceIndex) const override {
    TORCH_CHECK(a && b && moment(a)->done && moment(b)->done, "both events must be done before their time is asked");
    return double(moment(b)->time_ns - moment(a)->time_ns) / 1e6;
  }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return devices; }
  void setCurrentDevice(c10::DeviceIndex index) const override { set_current_device(index); }
  c10::DeviceIndex getCurrentDevice() const override { return current_device(); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    auto before = current_device();
    set_current_device(index);
    return before;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return index < 0 ? current_device() : exchangeDevice(index);
  }
  // Random numbers are the CPU's: the device has the CPU's kernels.
  const at::Generator &getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::detail::createCPUGenerator(); }
  at::Device getDeviceFromPtr(void *p) const override {
    auto index = device_of(p);
    TORCH_CHECK(index >= 0, p, " is no memory of a simulated device");
    return device(index);
  }
  bool isPinnedPtr(const void *p) const override { return is_pinned(p); }
  at::Allocator *getPinnedMemoryAllocator() const override { return pinned_allocator(); }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

[[maybe_unused]] const bool registered = [] {
  c10::SetAllocator(sim::type, allocator());
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  return true;
}();

} // namespace
} // namespace sim

// The peer that pyhook is measured against: torch's own c10d::PythonCommHook
// (torch/csrc/distributed/c10d/python_comm_hook.h), called from C++ as the DDP
// reducer calls it (reducer.cpp: all_reduce_bucket, finalize_backward), with
// each call timed. A Python extension, so that it runs in the same process, on
// the same interpreter, hook and memory as the Go side.

#include <time.h>

#include <chrono>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

#include <torch/csrc/distributed/c10d/python_comm_hook.h>

namespace {

int64_t now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

using Sizes = std::vector<std::vector<int64_t>>;
using Tensors = std::vector<at::Tensor>;

// torch >= 2 takes one argument more, the indices of a sparse gradient.
template <class Bucket>
Bucket make_bucket(const at::Tensor &buffer, const std::vector<size_t> &offsets, const std::vector<size_t> &lengths,
                   const std::vector<c10::IntArrayRef> &shapes, const Tensors &params) {
  if constexpr (std::is_constructible_v<Bucket, size_t, size_t, at::Tensor, std::vector<size_t>,
                                        std::vector<size_t>, std::vector<c10::IntArrayRef>, Tensors>) {
    return Bucket(0, 1, buffer, offsets, lengths, shapes, params);
  } else {
    return Bucket(0, 1, buffer, offsets, lengths, shapes, params, {});
  }
}

class Peer {
public:
  Peer(py::object hook, py::object state, at::Tensor buffer, Sizes sizes, Tensors params)
      : sizes_(std::move(sizes)), params_(std::move(params)), offsets_(lay_out()),
        bucket_(make_bucket<c10d::GradBucket>(buffer, offsets_, lengths_, shapes_, params_)),
        hook_(std::move(state), std::move(hook)) {}

  // run calls the hook n times and stores each call's nanoseconds at address.
  // As for the reducer, the GIL is free outside of PythonCommHook's own code.
  void run(size_t n, uintptr_t address) {
    timed(n, address, [&] { call(bucket_); });
  }

  // run_callers does it on so many threads at once, n calls in all, each thread
  // with a bucket and a kept thread state of its own, as autograd's threads have.
  void run_callers(size_t n, uintptr_t address, size_t callers) {
    size_t each = n / callers;
    auto *ns = reinterpret_cast<int64_t *>(address);
    py::gil_scoped_release release;
    std::vector<std::thread> threads;
    for (size_t t = 0; t < callers; t++) {
      threads.emplace_back([this, each, at = ns + t * each] {
        py::gil_scoped_acquire state;
        auto bucket = bucket_;
        py::gil_scoped_release free;
        loop(each, at, [&] { call(bucket); });
      });
    }
    for (auto &thread : threads) {
      thread.join();
    }
  }

  // run_paused sleeps a millisecond before each call, which is not counted.
  void run_paused(size_t n, uintptr_t address) {
    auto *ns = reinterpret_cast<int64_t *>(address);
    py::gil_scoped_release release;
    for (size_t i = 0; i < n; i++) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      loop(1, ns + i, [&] { call(bucket_); });
    }
  }

  // run_new_bucket makes the bucket anew for each call, as the reducer does.
  void run_new_bucket(size_t n, uintptr_t address) {
    timed(n, address, [&] {
      auto bucket = make_bucket<c10d::GradBucket>(bucket_.getBufferRef(), offsets_, lengths_, shapes_, params_);
      call(bucket);
    });
  }

  // bucket is a torch.distributed.GradBucket for Python's own loop.
  c10d::GradBucket bucket() const { return bucket_; }

private:
  void call(c10d::GradBucket &bucket) {
    auto future = hook_.runHook(bucket);
    future->wait();
    at::Tensor result = hook_.parseHookResult(future->value());
  }

  std::vector<size_t> lay_out() {
    std::vector<size_t> offsets;
    size_t at = 0;
    for (const auto &size : sizes_) {
      size_t n = 1;
      for (auto s : size) {
        n *= s;
      }
      offsets.push_back(at);
      lengths_.push_back(n);
      shapes_.emplace_back(size);
      at += n;
    }
    return offsets;
  }

  template <class F> void timed(size_t n, uintptr_t address, F f) {
    py::gil_scoped_release release;
    loop(n, reinterpret_cast<int64_t *>(address), f);
  }

  template <class F> static void loop(size_t n, int64_t *ns, F f) {
    int64_t before = now();
    for (size_t i = 0; i < n; i++) {
      f();
      int64_t after = now();
      ns[i] = after - before;
      before = after;
    }
  }

  Sizes sizes_; // shapes_ refers to them
  Tensors params_;
  std::vector<size_t> lengths_;
  std::vector<c10::IntArrayRef> shapes_;
  std::vector<size_t> offsets_; // after the two that lay_out fills
  c10d::GradBucket bucket_;
  c10d::PythonCommHook hook_;
};

} // namespace

PYBIND11_MODULE(python_comm_hook_peer, m) {
  py::module_::import("torch.distributed");
  py::class_<Peer>(m, "Peer")
      .def(py::init<py::object, py::object, at::Tensor, Sizes, Tensors>())
      .def("run", &Peer::run)
      .def("run_paused", &Peer::run_paused)
      .def("run_callers", &Peer::run_callers)
      .def("run_new_bucket", &Peer::run_new_bucket)
      .def("bucket", &Peer::bucket);
}

// simccl: collectives on the device's memory, in the order of streams, as ProcessGroupNCCL's. A
// collective is enqueued on a stream of the group's own, after what the current stream has by then,
// and runs there by gloo over the device's mapping. Nothing waits: Work.wait has the current stream
// wait, and the work's future is complete at once, with an event.

#include "collectives.h"

#include <array>
#include <mutex>

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/StreamGuard.h>

#include "memory.h"
#include "queue.h"

namespace sim {
namespace {

using Tensors = std::vector<at::Tensor>;
using c10d::Work;
using WorkPtr = c10::intrusive_ptr<Work>;

struct Failure {
  std::mutex mutex;
  std::exception_ptr value;
};

struct SimWork final : Work {
  SimWork(int rank, c10d::OpType op, MomentPtr done, std::shared_ptr<Failure> failure, Tensors results)
      : Work(rank, op), done_(std::move(done)), failure_(std::move(failure)), results_(std::move(results)) {}

  bool isCompleted() override { return done_->done; }
  bool isSuccess() const override { return !exception(); }
  std::exception_ptr exception() const override {
    std::lock_guard lock(failure_->mutex);
    return failure_->value;
  }
  Tensors result() override { return results_; }
  void synchronize() override {
    for (auto &t : results_) {
      sim::wait(current_stream(t.device().index()), done_);
      break;
    }
    if (results_.empty())
      sim::synchronize(done_); // a barrier: the caller waits
  }
  bool wait(std::chrono::milliseconds) override {
    synchronize();
    if (auto e = exception())
      std::rethrow_exception(e);
    return true;
  }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future; }

  c10::intrusive_ptr<c10::ivalue::Future> future;

private:
  MomentPtr done_;
  std::shared_ptr<Failure> failure_;
  Tensors results_;
};

class SimBackend final : public c10d::Backend {
public:
  explicit SimBackend(Backends gloo) : Backend(gloo[0]->getRank(), gloo[0]->getSize()), gloo_(std::move(gloo)) {
    for (int i = 0; i < devices; i++)
      streams_.push_back(stream_of_pool(i));
  }

  const std::string getBackendName() const override { return "simccl"; }

  WorkPtr allreduce(Tensors &tensors, const c10d::AllreduceOptions &o) override {
    return start(c10d::OpType::ALLREDUCE, tensors, tensors, [o](auto &g, Tensors &t, Tensors &) { return g.allreduce(t, o); });
  }
  WorkPtr allreduce_coalesced(Tensors &tensors, const c10d::AllreduceCoalescedOptions &o) override {
    return start(c10d::OpType::ALLREDUCE_COALESCED, tensors, tensors,
                 [o](auto &g, Tensors &t, Tensors &) { return g.allreduce_coalesced(t, o); });
  }
  WorkPtr broadcast(Tensors &tensors, const c10d::BroadcastOptions &o) override {
    return start(c10d::OpType::BROADCAST, tensors, tensors, [o](auto &g, Tensors &t, Tensors &) { return g.broadcast(t, o); });
  }
  WorkPtr reduce(Tensors &tensors, const c10d::ReduceOptions &o) override {
    return start(c10d::OpType::REDUCE, tensors, tensors, [o](auto &g, Tensors &t, Tensors &) { return g.reduce(t, o); });
  }
  WorkPtr allgather(std::vector<Tensors> &outputs, Tensors &inputs, const c10d::AllgatherOptions &o) override {
    TORCH_CHECK(outputs.size() == 1, "simccl gathers to one list");
    return start(c10d::OpType::ALLGATHER, outputs[0], inputs, [o](auto &g, Tensors &out, Tensors &in) {
      std::vector<Tensors> lists{out};
      return g.allgather(lists, in, o);
    });
  }
  WorkPtr _allgather_base(at::Tensor &output, at::Tensor &input, const c10d::AllgatherOptions &o) override {
    return start(c10d::OpType::_ALLGATHER_BASE, {output}, {input},
                 [o](auto &g, Tensors &out, Tensors &in) { return g._allgather_base(out[0], in[0], o); });
  }
  WorkPtr alltoall_base(at::Tensor &output, at::Tensor &input, std::vector<int64_t> &to, std::vector<int64_t> &from,
                        const c10d::AllToAllOptions &o) override {
    return start(c10d::OpType::ALLTOALL_BASE, {output}, {input}, [o, to, from](auto &g, Tensors &out, Tensors &in) mutable {
      return g.alltoall_base(out[0], in[0], to, from, o);
    });
  }
  WorkPtr barrier(const c10d::BarrierOptions &o) override {
    return start(c10d::OpType::BARRIER, {}, {}, [o](auto &g, Tensors &, Tensors &) {
      auto plain = o;
      plain.device_ids.clear();
      plain.device.reset();
      return g.barrier(plain);
    });
  }
  void setSequenceNumberForGroup() override {}
  uint64_t getSequenceNumberForGroup() override { return sequence_; }
  void abort() override {
    for (auto &gloo : gloo_)
      gloo->abort();
  }
  void shutdown() override {
    for (auto &gloo : gloo_)
      gloo->shutdown();
  }

private:
  template <class Run> WorkPtr start(c10d::OpType op, const Tensors &outputs, const Tensors &inputs, Run run) {
    sequence_++;
    auto index = outputs.empty() ? current_device() : outputs[0].device().index();
    for (auto *list : {&outputs, &inputs})
      for (auto &t : *list) {
        TORCH_CHECK(t.device() == device(index), "simccl takes tensors of one device, ", device(index), ", not ", t.device());
        TORCH_CHECK(t.is_non_overlapping_and_dense(), "simccl takes contiguous tensors");
      }
    auto stream = streams_[index];
    Tensors out, in;
    {
      at::AutoDispatchBelowADInplaceOrView guard;
      for (auto &t : outputs)
        out.push_back(mapped(t));
      for (auto &t : inputs)
        in.push_back(mapped(t));
    }
    auto failure = std::make_shared<Failure>();
    wait(stream, record(current_stream(index)));
    enqueue(stream, [gloo = gloo_[index], failure, out, in, run]() mutable {
      at::AutoDispatchBelowADInplaceOrView guard;
      try {
        run(*gloo, out, in)->wait();
      } catch (...) {
        std::lock_guard lock(failure->mutex);
        failure->value = std::current_exception();
        throw;
      }
    });
    for (auto *list : {&outputs, &inputs})
      for (auto &t : *list)
        record_stream(t.storage().data_ptr(), stream);
    auto work = c10::make_intrusive<SimWork>(getRank(), op, record(stream), failure, outputs);
    work->future = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()),
                                                            std::vector<c10::Device>{device(index)});
    c10::MultiStreamGuard guard(stream); // what the future's events are recorded on
    work->future->markCompleted(c10::IValue(outputs));
    return work;
  }

  Backends gloo_; // of each device: their streams run side by side
  std::vector<c10::Stream> streams_;
  std::atomic<uint64_t> sequence_{0};
};

} // namespace

c10::intrusive_ptr<c10d::Backend> over_gloo(Backends gloo) {
  TORCH_CHECK(gloo.size() == devices, "one gloo for each device");
  return c10::make_intrusive<SimBackend>(std::move(gloo));
}

} // namespace sim

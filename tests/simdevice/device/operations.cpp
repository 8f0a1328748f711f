// Operations: those that make memory and views, copies, and a fallback that runs every other one by
// the CPU's kernel over the device's own mapping, in the order of the current stream.
//
// The fallback does not wait where it knows the results' shapes: for operations in place and with
// out=, and for those that have a kernel for meta tensors. Only what has results that are no tensors
// (equal, item) or shapes that depend on values (nonzero) makes the caller wait, as on a GPU.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_local_scalar_dense_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/is_set_to_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <torch/library.h>

#include "memory.h"
#include "operations.h"
#include "queue.h"

namespace sim {

Counters &counters() {
  static auto *c = new Counters;
  return *c;
}

namespace {

using Stack = torch::jit::Stack;

bool is_ours(const at::Tensor &t) { return t.defined() && t.device().type() == type; }

// Memory

c10::Device device_or_current(std::optional<at::Device> d) {
  return d.has_value() && d->index() >= 0 ? *d : device(current_device());
}

constexpr c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device> d, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(device_or_current(d));
  return at::detail::empty_generic(size, allocator(), keys, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device> d, std::optional<bool>) {
  c10::DeviceGuard guard(device_or_current(d));
  return at::detail::empty_strided_generic(size, stride, allocator(), keys, c10::dtype_or_default(dtype));
}

// grow makes room in a storage for so many bytes, with what was there.
void grow(const at::Tensor &t, size_t bytes) {
  auto *storage = t.storage().unsafeGetStorageImpl();
  if (bytes <= storage->nbytes())
    return;
  c10::DeviceGuard guard(t.device());
  auto data = allocator()->allocate(bytes);
  if (storage->nbytes())
    allocator()->copy_data(data.get(), storage->data(), storage->nbytes());
  storage->set_data_ptr(std::move(data));
  storage->set_nbytes(bytes);
}

const at::Tensor &resize_(const at::Tensor &self, at::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  if (self.sizes() != size) {
    auto *impl = self.unsafeGetTensorImpl();
    impl->set_sizes_contiguous(size);
    grow(self, at::detail::computeStorageNbytesContiguous(size, self.itemsize(), self.storage_offset()));
  }
  if (format.has_value())
    self.unsafeGetTensorImpl()->empty_tensor_restride(*format);
  return self;
}

at::Tensor &set_storage_(at::Tensor &self, at::Storage source, int64_t offset, at::IntArrayRef size,
                         at::IntArrayRef stride) {
  at::native::checkSetStorage(self, source, offset, size, stride);
  auto *impl = self.unsafeGetTensorImpl();
  impl->set_storage_offset(offset);
  if (stride.data() && stride.size())
    impl->set_sizes_and_strides(size, stride);
  else
    impl->set_sizes_contiguous(size);
  return self;
}

at::Tensor &set_whole_storage_(at::Tensor &self, at::Storage source) {
  int64_t n = source.nbytes() / self.itemsize();
  return set_storage_(self, source, 0, {n}, {});
}

at::Tensor &set_tensor_(at::Tensor &self, const at::Tensor &source) {
  return set_storage_(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

at::Tensor &set_nothing_(at::Tensor &self) {
  c10::DeviceGuard guard(self.device());
  at::Storage storage(at::Storage::use_byte_size_t(), 0, allocator(), true);
  return set_storage_(self, storage, 0, {0}, {});
}

void record_stream_of(at::Tensor &self, at::Stream s) { record_stream(self.storage().data_ptr(), s); }

// Copies

// on_host is a CPU tensor of the same memory without a Python object: a queue may let go of it.
at::Tensor on_host(const at::Tensor &t) { return t.alias(); }

void enqueue_copy(c10::Stream stream, const at::Tensor &to, const at::Tensor &from) {
  enqueue(stream, [to, from] {
    at::AutoDispatchBelowADInplaceOrView guard;
    to.copy_(from);
  });
}

void copy_from_host(const at::Tensor &self, const at::Tensor &to, bool non_blocking) {
  auto stream = current_stream(to.device().index());
  counters().from_host += self.nbytes();
  if (!non_blocking) {
    enqueue_copy(stream, mapped(to), on_host(self));
    synchronize(stream);
  } else if (is_pinned(self.const_data_ptr())) {
    enqueue_copy(stream, mapped(to), on_host(self)); // read when it runs
  } else {
    enqueue_copy(stream, mapped(to), self.clone()); // the driver reads pageable memory at once
  }
}

void copy_to_host(const at::Tensor &self, const at::Tensor &to, bool non_blocking) {
  auto stream = current_stream(self.device().index());
  counters().to_host += self.nbytes();
  enqueue_copy(stream, on_host(to), mapped(self));
  if (!non_blocking || !is_pinned(to.const_data_ptr()))
    synchronize(stream);
}

at::Tensor copy_from(const at::Tensor &self, const at::Tensor &to, bool non_blocking) {
  at::AutoDispatchBelowADInplaceOrView below;
  if (self.numel() == 0 || to.numel() == 0)
    return to;
  if (!is_ours(self)) {
    copy_from_host(self, to, non_blocking);
  } else if (!is_ours(to)) {
    copy_to_host(self, to, non_blocking);
  } else if (self.device() == to.device()) {
    enqueue_copy(current_stream(self.device().index()), mapped(to), mapped(self));
  } else { // as CUDA: on the source's stream, and both devices' streams wait
    auto from = current_stream(self.device().index()), other = current_stream(to.device().index());
    wait(from, record(other));
    enqueue_copy(from, mapped(to), mapped(self));
    wait(other, record(from));
  }
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor &self, const at::Tensor &to) {
  to.resize_(self.sizes());
  return copy_from(self, to, false);
}

at::Scalar local_scalar(const at::Tensor &self) {
  at::AutoDispatchBelowADInplaceOrView guard;
  auto host = at::empty_strided(self.sizes(), self.strides(), self.options().device(at::kCPU));
  copy_to_host(self, host, false);
  return at::native::_local_scalar_dense_cpu(host);
}

// The fallback

using Change = std::function<at::Tensor(const at::Tensor &)>;

// changed puts f(t) in the place of every tensor of an argument.
c10::IValue changed(const c10::IValue &v, const Change &f) {
  if (v.isTensor())
    return v.toTensor().defined() ? c10::IValue(f(v.toTensor())) : v;
  if (v.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor &t : v.toTensorVector())
      list.push_back(t.defined() ? f(t) : t);
    return list;
  }
  if (v.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const std::optional<at::Tensor> &t : v.toOptionalTensorVector())
      list.push_back(t && t->defined() ? std::optional(f(*t)) : t);
    return list;
  }
  return v;
}

void each_tensor(const c10::IValue &v, const std::function<void(const at::Tensor &)> &f) {
  changed(v, [&](const at::Tensor &t) {
    f(t);
    return t;
  });
}

bool is_written(const c10::Argument &a) { return a.alias_info() && a.alias_info()->isWrite(); }

struct Call {
  const c10::OperatorHandle &op;
  const c10::FunctionSchema &schema;
  std::vector<c10::IValue> arguments;
  c10::Device device;
  c10::Stream stream;

  Call(const c10::OperatorHandle &op, const Stack &stack)
      : op(op), schema(op.schema()), arguments(stack.end() - schema.arguments().size(), stack.end()), device(type, -1),
        stream(c10::Stream::DEFAULT, sim::device(0)) {
    for (auto &a : arguments)
      each_tensor(a, [&](const at::Tensor &t) {
        if (is_ours(t) && device.index() < 0)
          device = t.device();
        TORCH_CHECK(!is_ours(t) || t.device() == device, "Expected all tensors to be on the same device, but found at least two devices, ",
                    device, " and ", t.device(), " (", op.operator_name(), ")");
      });
    if (device.index() < 0)
      device = sim::device(current_device());
    stream = current_stream(device.index());
  }

  // over is the arguments as the CPU's kernel takes them.
  Stack over() const {
    Stack stack;
    for (auto &a : arguments) {
      if (a.isDevice()) {
        stack.emplace_back(c10::Device(c10::kCPU));
        continue;
      }
      stack.push_back(changed(a, [&](const at::Tensor &t) {
        if (is_ours(t))
          return mapped(t);
        // A kernel gets numbers by value, and indices of any device.
        bool allowed = t.device().is_cpu() && (t.dim() == 0 || !t.is_floating_point());
        TORCH_CHECK(allowed, "Expected all tensors to be on the same device, but found at least two devices, ", device,
                    " and ", t.device(), " (", op.operator_name(), ")");
        if (t.unsafeGetTensorImpl()->is_wrapped_number())
          return t;
        return t.clone();
      }));
    }
    return stack;
  }

  bool only_writes() const {
    for (auto &r : schema.returns())
      if (!is_written(r))
        return false;
    for (auto &a : schema.arguments())
      if (is_written(a))
        return true;
    return false;
  }

  // meta is the results as meta tensors, if the operation knows their shapes by those of the arguments.
  std::optional<Stack> meta(Stack *arguments_after = nullptr) const {
    Stack stack;
    for (auto &a : arguments) {
      if (a.isDevice())
        stack.emplace_back(c10::Device(c10::kMeta));
      else
        stack.push_back(changed(a, [](const at::Tensor &t) {
          if (t.unsafeGetTensorImpl()->is_wrapped_number())
            return t;
          return at::empty_strided(t.sizes(), t.strides(), t.options().device(at::kMeta));
        }));
    }
    if (arguments_after)
      *arguments_after = stack;
    try {
      op.callBoxed(&stack);
    } catch (const std::exception &) {
      return std::nullopt; // the kernel itself will say what is wrong, if anything is
    }
    return stack;
  }

  // resize_outs gives results that have no elements yet the size that the operation will ask for.
  void resize_outs() const {
    bool needed = false;
    for (size_t i = 0; i < arguments.size(); i++)
      if (is_written(schema.arguments()[i]))
        each_tensor(arguments[i], [&](const at::Tensor &t) { needed |= t.numel() == 0; });
    Stack after;
    if (!needed || !meta(&after))
      return;
    for (size_t i = 0; i < arguments.size(); i++)
      if (is_written(schema.arguments()[i]) && arguments[i].isTensor())
        resize_(arguments[i].toTensor(), after[i].toTensor().sizes(), {});
  }

  void write(Stack *stack) const {
    resize_outs();
    enqueue(stream, [op = op, over = over()]() mutable {
      at::AutoDispatchBelowADInplaceOrView guard;
      op.callBoxed(&over);
    });
    for (auto &r : schema.returns())
      for (size_t i = 0; i < arguments.size(); i++)
        if (is_written(schema.arguments()[i]) &&
            schema.arguments()[i].alias_info()->beforeSets() == r.alias_info()->beforeSets()) {
          stack->push_back(arguments[i]);
          break;
        }
  }

  at::Tensor like(const at::Tensor &t) const {
    return empty_strided(t.sizes(), t.strides(), t.scalar_type(), {}, device, {});
  }

  void compute(Stack *stack, const Stack &shapes) const {
    std::vector<at::Tensor> to;
    for (auto &shape : shapes)
      stack->push_back(changed(shape, [&](const at::Tensor &t) {
        auto made = like(t);
        to.push_back(mapped(made));
        return made;
      }));
    enqueue(stream, [op = op, over = over(), to = std::move(to)]() mutable {
      at::AutoDispatchBelowADInplaceOrView guard;
      op.callBoxed(&over);
      size_t i = 0;
      for (auto &v : over)
        each_tensor(v, [&](const at::Tensor &t) { to[i++].copy_(t); });
    });
  }

  void compute_now(Stack *stack) const {
    counters().waits++;
    synchronize(stream);
    Stack results = over();
    op.callBoxed(&results);
    for (auto &v : results)
      stack->push_back(changed(v, [&](const at::Tensor &t) {
        auto made = like(t);
        if (t.numel())
          enqueue_copy(stream, mapped(made), t.clone());
        return made;
      }));
  }
};

bool has_tensor(const std::vector<c10::Argument> &results) {
  for (auto &r : results)
    if (r.type()->isSubtypeOf(*c10::TensorType::get()) ||
        r.type()->isSubtypeOf(*c10::ListType::ofTensors()))
      return true;
  return false;
}

void fallback(const c10::OperatorHandle &op, Stack *stack) {
  at::AutoDispatchBelowADInplaceOrView guard;
  Call call(op, *stack);
  for (auto &r : call.schema.returns())
    TORCH_CHECK_NOT_IMPLEMENTED(!r.alias_info() || r.alias_info()->isWrite(), op.operator_name(),
                                " makes a view, and the simulated device has no kernel for it");
  Stack results;
  std::optional<Stack> shapes;
  if (call.only_writes())
    call.write(&results);
  else if (has_tensor(call.schema.returns()) && (shapes = call.meta()))
    call.compute(&results, *shapes);
  else
    call.compute_now(&results);
  torch::jit::drop(*stack, call.arguments.size());
  for (auto &r : results)
    stack->push_back(std::move(r));
}

// copy_list is one launch for all copies on one device, as CUDA's kernel for lists.
void copy_list(at::TensorList to, at::TensorList from, bool non_blocking) {
  std::vector<std::pair<at::Tensor, at::Tensor>> here;
  at::AutoDispatchBelowADInplaceOrView below;
  TORCH_CHECK(to.size() == from.size(), "lists of ", to.size(), " and ", from.size(), " tensors");
  for (size_t i = 0; i < to.size(); i++) {
    if (is_ours(to[i]) && to[i].device() == from[i].device() && to[i].device() == to[0].device())
      here.emplace_back(mapped(to[i]), mapped(from[i]).expand(to[i].sizes()));
    else
      to[i].copy_(from[i], non_blocking);
  }
  if (!here.empty())
    enqueue(current_stream(to[0].device().index()), [here = std::move(here)] {
      at::AutoDispatchBelowADInplaceOrView guard;
      for (auto &[a, b] : here)
        a.copy_(b);
    });
}

} // namespace
} // namespace sim

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&sim::fallback>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", sim::empty);
  m.impl("empty_strided", sim::empty_strided);
  m.impl("resize_", sim::resize_);
  m.impl("set_.source_Storage_storage_offset", sim::set_storage_);
  m.impl("set_.source_Storage", sim::set_whole_storage_);
  m.impl("set_.source_Tensor", sim::set_tensor_);
  m.impl("set_", sim::set_nothing_);
  m.impl("is_set_to", at::native::is_set_to);
  m.impl("record_stream", sim::record_stream_of);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("unfold", at::native::unfold);
  m.impl("view_as_real", at::native::view_as_real);
  m.impl("view_as_complex", at::native::view_as_complex);
  m.impl("_copy_from", sim::copy_from);
  m.impl("_copy_from_and_resize", sim::copy_from_and_resize);
  m.impl("_local_scalar_dense", sim::local_scalar);
  m.impl("_foreach_copy_", sim::copy_list);
  // Lists, which torch would take apart: one launch each.
  for (const char *name : {"_foreach_mul_.Scalar", "_foreach_mul_.Tensor", "_foreach_mul_.List", "_foreach_div_.Scalar",
                           "_foreach_div_.List", "_foreach_add_.Scalar", "_foreach_add_.List", "_foreach_sub_.List",
                           "_foreach_zero_", "_foreach_norm.Scalar"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&sim::fallback>());
}

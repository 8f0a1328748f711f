// The Python module simdevice_c: what simdevice.py adds to torch as torch.sim.

#include <torch/csrc/utils/pybind.h>

#include "collectives.h"
#include "memory.h"
#include "operations.h"
#include "queue.h"

namespace py = pybind11;

PYBIND11_MODULE(simdevice_c, m) {
  using NoGIL = py::call_guard<py::gil_scoped_release>;
  m.def("over_gloo", &sim::over_gloo, NoGIL());
  m.def("device_count", [] { return int(sim::devices); });
  m.def("current_device", [] { return int(sim::current_device()); });
  m.def("set_device", [](int i) { sim::set_current_device(i); });
  m.def("synchronize", [](int i) { sim::synchronize_device(i); }, NoGIL());
  m.def("set_delay", &sim::set_delay);
  m.def("set_late", &sim::set_late);
  m.def("set_memory_limit", [](int i, size_t bytes) { sim::set_limit(i, bytes); });
  m.def("set_reuse", &sim::set_reuse);
  m.def("memory_allocated", [](int i) { return sim::allocated(i); });
  m.def("share", &sim::share);
  m.def("open_shared", &sim::open_shared, NoGIL());
  m.def("counters", [] {
    py::dict d;
    d["from_host"] = sim::counters().from_host.load();
    d["to_host"] = sim::counters().to_host.load();
    d["waits"] = sim::counters().waits.load();
    d["launches"] = sim::launches();
    return d;
  });
  m.def("stop", &sim::stop, NoGIL());
}

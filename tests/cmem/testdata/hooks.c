#include <string.h>

#include "../../../pyhook/hookcall.h"
#include "cmem.h"

// The classes that hookcall.c asks of torch: what it does with references is the
// same for these, which load in no time under valgrind.
static const char source[] =
    "class Future:\n"
    " def __init__(self, value=None, ready=True, error=None): self.v, self.ready, self.error = value, ready, error\n"
    " def done(self): return self.ready\n"
    " def add_done_callback(self, f): self.callback = f\n"
    " def value(self):\n"
    "  if self.error: raise self.error\n"
    "  if not self.ready: raise RuntimeError('not done')\n"
    "  return self.v\n"
    "class Sub(Future): pass\n"
    "class Tensor:\n"
    " n, d, p, contiguous, names, dtype, requires_grad = 4, 1, 4096, True, False, float, False\n"
    " def data_ptr(self): return self.p\n"
    " def numel(self): return self.n\n"
    " def dim(self): return self.d\n"
    " def is_contiguous(self): return self.contiguous\n"
    " def has_names(self): return self.names\n"
    "class BucketMethods: __slots__ = ()\n"
    "class Bucket(BucketMethods): __slots__ = ('_layout', '_buffer', '__weakref__')\n"
    "tensor, layout, dtype, state = Tensor(), object(), float, object()\n"
    "mode = [True]\n"
    "def grad_enabled(): return mode[0]\n"
    "def set_grad(on): mode[0] = on\n"
    "def same(s, b):\n assert not mode[0]\n return Future(b._buffer)\n"
    "def sub(s, b): return Sub([b._buffer])\n"
    "def pending(s, b): return Future(b._buffer, False)\n"
    "def failed(s, b): return Future(error=ValueError('v'))\n"
    "def raises(s, b):\n mode[0] = True\n raise KeyError('k')\n"
    "def none(s, b): return None\n"
    "def touches(s, b):\n b._buffer.n = 2\n return Future(b._buffer)\n"
    "def restores(s, b):\n b._buffer.n = 4\n return Future(b._buffer)\n"
    "def breaks(s, b):\n b._buffer.data_ptr = 5\n b._buffer.dtype = int\n raise KeyError('k')\n";

static void drop(pyh_result *r) {
  PyObject *all[] = {r->object, r->error};
  for (int i = 0; i < 2; i++) {
    if (all[i] != NULL) {
      pyh.Py_DecRef(all[i]);
    }
  }
}

void check_hooks(void) {
  pyh_enter();
  PyObject *dict = python(source);
  pyh_tools *tools = calloc(1, sizeof *tools);
  tools->py = &pyh;
  PyObject *future = tools->future_class = from(dict, "Future"), *tensor = tools->tensor_class = from(dict, "Tensor");
  tools->python_future = future;
  tools->bucket_class = from(dict, "Bucket");
  tools->bucket_methods = from(dict, "BucketMethods");
  tools->done = pyh.PyObject_GetAttrString(future, "done");
  tools->value = pyh.PyObject_GetAttrString(future, "value");
  tools->add_done_callback = pyh.PyObject_GetAttrString(future, "add_done_callback");
  const char *names[] = {"data_ptr", "numel", "dim", "is_contiguous", "has_names"};
  PyObject **slots[] = {&tools->data_ptr, &tools->numel, &tools->dim, &tools->is_contiguous, &tools->has_names};
  for (int i = 0; i < 5; i++) {
    *slots[i] = pyh.PyObject_GetAttrString(tensor, names[i]);
  }
  tools->grad.py_enabled = from(dict, "grad_enabled");
  tools->grad.py_set = from(dict, "set_grad");
  tools->detach = from(dict, "none"); // of two arguments: it fails, and that is no matter
  CHECK(pyh_tools_init(tools) == 1);
  CHECK(pyh_grad_mode_find(&pyh, &tools->grad, "/no/such/library") && tools->grad.set == NULL);
  pyh_bucket *b = calloc(1, sizeof *b);
  b->layout = from(dict, "layout");
  b->tensor = from(dict, "tensor");
  b->dtype = from(dict, "dtype");
  b->data = 4096;
  b->len = 4;
  PyObject *state = from(dict, "state");
  const struct { const char *hook; int times, outcome, touched; } calls[] = {
      {"same", 12, PYH_SAME, 0}, {"pending", 3, PYH_PENDING, 0}, {"failed", 2, PYH_FAILED, 0}, {"same", 300, PYH_SAME, 0},
      {"failed", 2, PYH_FAILED, 0}, {"sub", 2, PYH_VALUE, 0}, {"raises", 2, PYH_RAISED, 0}, {"none", 2, PYH_NOT_FUTURE, 0},
      {"touches", 2, PYH_VALUE, 1}, {"restores", 2, PYH_SAME, 0}, {"breaks", 1, PYH_RAISED, 1}};
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    PyObject *hook = from(dict, calls[i].hook);
    for (int k = 0; k < calls[i].times; k++) {
      pyh_run_hook((uintptr_t)tools, (uintptr_t)hook, (uintptr_t)state, (uintptr_t)b);
      int outcome = b->result.outcome;
      CHECK(outcome == calls[i].outcome && b->result.touched == calls[i].touched);
      if (outcome == PYH_PENDING) {
        CHECK(pyh_abandon(b->result.pending) == 1);
        pyh_pending_release(b->result.pending);
      }
      drop(&b->result);
    }
    pyh.Py_DecRef(hook);
  }
  CHECK(pyh_grad_off(&pyh, &tools->grad)); // each call put it back
  PyObject *all[] = {tools->grad.py_enabled, tools->grad.py_set, tools->detach, future, tensor, tools->bucket_class, tools->done, tools->value, tools->add_done_callback, tools->data_ptr, tools->numel, tools->dim, tools->is_contiguous,
                     tools->has_names, tools->bucket_methods, tools->shell_type, tools->dtype, tools->requires_grad, b->layout, b->tensor, b->dtype, state, dict};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    pyh.Py_DecRef(all[i]);
  }
  free(b);
  free(tools);
  pyh_leave();
  pyh_enter(); // does what was deferred
  pyh_leave();
  CHECK(pyh_pendings() == 0);
}

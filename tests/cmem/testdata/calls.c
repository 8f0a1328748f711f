#include <string.h>

#include "cmem.h"

// The classes that cbridge asks of torch: what it does with references is the
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
    " n, d, p, contiguous, named, dtype, requires_grad = 4, 1, 4096, True, False, float, False\n"
    " def data_ptr(self): return self.p\n"
    " def numel(self): return self.n\n"
    " def dim(self): return self.d\n"
    " def is_contiguous(self): return self.contiguous\n"
    " def has_names(self): return self.named\n"
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
    "def renames(s, b):\n b._buffer.named = True\n return Future(b._buffer)\n"
    "def unnames(s, b):\n b._buffer.named = False\n return Future(b._buffer)\n"
    "def unsqueezes(s, b):\n b._buffer.d = 2\n return Future(b._buffer)\n"
    "def squeezes(s, b):\n b._buffer.d = 1\n return Future(b._buffer)\n"
    "def needs_grad(s, b):\n b._buffer.requires_grad = True\n return Future(b._buffer)\n"
    "def needs_none(s, b):\n b._buffer.requires_grad = False\n return Future(b._buffer)\n"
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

void check_calls(void) {
  pyh_enter();
  PyObject *dict = python(source);
  pyh_torch_api *torch = calloc(1, sizeof *torch);
  PyObject *future = torch->future_class = from(dict, "Future"), *tensor = torch->tensor_class = from(dict, "Tensor");
  torch->python_future = future;
  PyObject *class = from(dict, "Bucket"), *methods = from(dict, "BucketMethods");
  torch->done = pyh.PyObject_GetAttrString(future, "done");
  torch->value = pyh.PyObject_GetAttrString(future, "value");
  torch->add_done_callback = pyh.PyObject_GetAttrString(future, "add_done_callback");
  const char *names[] = {"data_ptr", "numel", "dim", "is_contiguous"};
  PyObject **slots[] = {&torch->data_ptr, &torch->numel, &torch->dim, &torch->is_contiguous};
  for (int i = 0; i < 4; i++) {
    *slots[i] = pyh.PyObject_GetAttrString(tensor, names[i]);
  }
  torch->grad.py_enabled = from(dict, "grad_enabled");
  torch->grad.py_set = from(dict, "set_grad");
  torch->detach = from(dict, "none"); // of two arguments: it fails, and that is no matter
  CHECK(pyh_torch_api_init(torch) && pyh_make_bucket_type(methods, class) && pyh_make_bucket_type(methods, class));
  CHECK(pyh_grad_mode_find(&torch->grad, "/no/such/library") && torch->grad.set == NULL);
  PyObject *layout = from(dict, "layout"), *buffer = from(dict, "tensor"), *dtype = from(dict, "dtype");
  pyh_bucket_call *first = pyh_bucket_call_new(torch, layout, buffer, dtype, 4096, 4);
  pyh_bucket_call *b = pyh_bucket_call_copy(first);
  free(first);
  PyObject *state = from(dict, "state");
  const struct { const char *hook; int times, outcome, changed; } calls[] = {
      {"same", 12, PYH_SAME, 0}, {"pending", 3, PYH_PENDING, 0}, {"failed", 2, PYH_FAILED, 0}, {"same", 300, PYH_SAME, 0},
      {"failed", 2, PYH_FAILED, 0}, {"sub", 2, PYH_VALUE, 0}, {"raises", 2, PYH_RAISED, 0}, {"none", 2, PYH_PLAIN, 0},
      {"unsqueezes", 1, PYH_VALUE, 1}, {"squeezes", 1, PYH_SAME, 0}, {"renames", 8, -1, -1}, {"unnames", 1, PYH_SAME, 0}, {"needs_grad", 8, -1, -1}, {"needs_none", 1, PYH_SAME, 0},
      {"touches", 2, PYH_VALUE, 1}, {"restores", 2, PYH_SAME, 0}, {"breaks", 1, PYH_RAISED, 1}};
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    PyObject *hook = from(dict, calls[i].hook);
    for (int k = 0; k < calls[i].times; k++) {
      pyh_invoke((uintptr_t)b, (uintptr_t)hook, (uintptr_t)state);
      pyh_result *result = &b->call.result;
      CHECK(calls[i].outcome < 0 || (result->outcome == calls[i].outcome && result->changed == calls[i].changed));
      if (result->outcome == PYH_PENDING) {
        CHECK(pyh_pending_abandon(result->pending) == 1);
        pyh_pending_release(result->pending);
      }
      drop(result);
    }
    pyh.Py_DecRef(hook);
  }
  CHECK(pyh_thread_of(&b->call) == 0);
  CHECK(pyh_grad_off(&torch->grad)); // each call put it back
  PyObject *all[] = {torch->grad.py_enabled, torch->grad.py_set, torch->detach, future, tensor, class, methods, torch->done, torch->value, torch->add_done_callback,
                     torch->data_ptr, torch->numel, torch->dim, torch->is_contiguous, torch->dtype, torch->requires_grad, torch->has_names, layout, buffer, dtype, state, dict};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    pyh.Py_DecRef(all[i]);
  }
  free(b);
  free(torch);
  pyh_leave();
  pyh_enter(); // does what was deferred
  pyh_leave();
  CHECK(pyh_pending_count() == 0);
}

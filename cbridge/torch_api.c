#include "torch_api.h"

bool pyh_torch_api_init(pyh_torch_api *t) {
  t->dtype = pyh.PyUnicode_InternFromString("dtype");
  t->requires_grad = pyh.PyUnicode_InternFromString("requires_grad");
  const DLPackExchangeAPI *x = pyh_exchange_api(t->tensor_class);
  t->describe = x != NULL ? x->dltensor_from_py_object : NULL;
  t->has_names = pyh.PyObject_GetAttrString(t->tensor_class, "has_names");
  pyh.PyErr_Clear(); // torch 2.15 has none
  return t->dtype != NULL && t->requires_grad != NULL;
}

bool pyh_is_future(const pyh_torch_api *t, PyObject *o) {
  PyObject *type = pyh.PyObject_Type(o);
  pyh.Py_DecRef(type); // the object keeps its type
  if (type == t->python_future || type == t->future_class) {
    return true;
  }
  int is = pyh.PyObject_IsInstance(o, t->future_class) == 1;
  pyh.PyErr_Clear();
  return is;
}

int pyh_is_done(const pyh_torch_api *t, PyObject *future) {
  PyObject *done = pyh.vectorcall(t->done, &future, 1, NULL);
  if (done == NULL) {
    return -1;
  }
  pyh.Py_DecRef(done); // only its address is looked at
  return done == pyh.True;
}

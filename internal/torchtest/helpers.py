"""What the tests of package tensorconv ask of Python."""

import ctypes
import threading

import numpy  # noqa: F401
import torch


def raw(t):
    """The bytes of a tensor's elements in row-major order."""
    c = t.contiguous()
    return ctypes.string_at(c.data_ptr(), c.numel() * c.element_size()) if c.numel() else b""


def describe(t):
    return [t.data_ptr(), list(t.shape), list(t.stride()), str(t.dtype), raw(t)]


def fill(t):
    t.fill_(1)


def copied(dst, src):
    """The bytes that dst would hold after dst.copy_(src)."""
    want = torch.empty(dst.shape, dtype=dst.dtype)
    want.copy_(src)
    return raw(want)


def divided(t, by):
    return raw(t.clone().div_(by))


def first_nonfinite(t):
    if not (t.dtype.is_floating_point or t.dtype.is_complex):
        return -1
    if t.element_size() == 1:  # torch asks fp8 for nothing
        t = t.float()
    bad = torch.isfinite(t).logical_not().nonzero()
    return int(bad[0]) if len(bad) else -1


def scaled(t, by):
    return raw(torch.mul(t, 1.0 / by, out=torch.empty_like(t)))


def evaluate(expression):
    return eval(expression, globals())


def in_thread(f):
    thread = threading.Thread(target=f)
    thread.start()
    thread.join()


held = []


def hold(x):
    held.append(x)


def drop_in_thread():
    in_thread(held.clear)


def is_shared(a, b):
    return a.data_ptr() == b.data_ptr()


def capsule_of(array, versioned):
    """A capsule of numpy's, or None where this numpy has no versioned ones."""
    if not versioned:
        return array.__dlpack__()
    try:
        return array.__dlpack__(max_version=(1, 0))
    except TypeError:
        return None


class Producer:
    """Has __dlpack__ as function f."""

    def __init__(self, f):
        self.__dlpack__ = f


# DLPack's structs, for capsules with any content.


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Legacy(ctypes.Structure):
    _fields_ = [("tensor", DLTensor), ("ctx", ctypes.c_void_p), ("deleter", Deleter)]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("ctx", ctypes.c_void_p),
        ("deleter", Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    ]


new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
capsule_pointer.restype = ctypes.c_void_p
capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
set_name = ctypes.pythonapi.PyCapsule_SetName
set_name.argtypes = [ctypes.py_object, ctypes.c_char_p]

memory = ctypes.create_string_buffer(1 << 16)
deleted = []  # addresses of the managed tensors
alive = {}


def delete(address):
    deleted.append(address)
    alive.pop(address, None)


deleter = Deleter(delete)
names = {Legacy: b"dltensor", Versioned: b"dltensor_versioned"}


def crafted(major, flags, data, device, ndim, shape, strides, code, bits, lanes, byte_offset):
    """A capsule with this content; major 0 makes a legacy one.

    data is an address, or whether to point at memory of this module; shape may be
    an address too.
    """
    m = Versioned() if major else Legacy()
    if major:
        m.major, m.flags = major, flags
    d = m.tensor
    if data is True:
        data = (ctypes.addressof(memory) + 63) // 64 * 64
    d.data = data or None
    d.device_type = device
    d.ndim, d.code, d.bits, d.lanes, d.byte_offset = ndim, code, bits, lanes, byte_offset
    if isinstance(shape, int):
        d.shape = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64))
    elif shape is not None:
        d.shape = (ctypes.c_int64 * len(shape))(*shape)
    if strides is not None:
        d.strides = (ctypes.c_int64 * len(strides))(*strides)
    m.deleter = deleter
    address = ctypes.addressof(m)
    alive[address] = m
    return new_capsule(address, names[type(m)], None)


def deletions():
    n = len(deleted)
    deleted.clear()
    return [n, len(alive)]


def forget():
    deleted.clear()
    alive.clear()


def delete_without_gil(capsule):
    """Consumes a capsule and calls its deleter, as C++ would, without the GIL."""
    address = capsule_pointer(capsule, names[Legacy])
    set_name(capsule, b"used")
    # A CFUNCTYPE function releases the GIL while it runs.
    Legacy.from_address(address).deleter(address)


class Array:
    """A capsule as numpy.from_dlpack wants it."""

    def __init__(self, capsule):
        self.capsule = capsule

    def __dlpack__(self, **kwargs):
        return self.capsule

    def __dlpack_device__(self):
        return (1, 0)


def backward_through(x):
    """Lets autograd's graph hold x last."""
    w = torch.ones(x.shape, requires_grad=True)
    loss = (w * x).sum()
    del x
    loss.backward()

"""Where pyhook.Interrupted may be raised. cbridge runs this inside the interpreter.

``PyThreadState_SetAsyncExc`` raises wherever the thread is just now, and finds the thread by its
id. Two things would go wrong:

- On CPython before 3.12 a thread that is being made bears its maker's id until it runs
  (Modules/_threadmodule.c: the maker calls ``_PyThreadState_Prealloc``, and the new thread's
  ``thread_bootstrap`` writes its own id), and the search finds the newest first. The exception
  would end the new thread before its first line, and the maker would wait for it for ever. So
  ``start_new_thread`` here returns when the new thread runs, and a maker that is inside it gets
  the exception from that function itself.
- Code in the middle of taking or giving back a lock, and pyhook's own code in the middle of
  completing futures, would leave them so for ever. There the exception is held back.
"""

import _thread
import dis
import functools
import sys
import threading
import time

# What takes and gives back locks is named so, in the standard library (threading, logging,
# importlib) and elsewhere.
_LOCKING = frozenset(
    (
        "__enter__",
        "__exit__",
        "_acquireLock",
        "_acquire_restore",
        "_releaseLock",
        "_release_save",
        "acquire",
        "release",
    )
)

# These wait for a lock with an exception in mind: a part of their own undoes what it leaves.
_WAITING = frozenset(
    getattr(function, "__code__", None)
    for function in (
        threading.Condition.wait,
        getattr(threading.Thread, "_wait_for_tstate_lock", None),  # before 3.13
    )
)

# For how long an interruption is held back while a thread is at a lock, in seconds: at one place,
# since it may be there for ever, and in all. Long enough that a thread which a busy machine does
# not run leaves the lock first.
_PATIENCE_HERE = 0.5
_PATIENCE = 3.0


class Attempts:
    """The attempts to interrupt one call."""

    __slots__ = ("_at", "_began", "_since")

    def __init__(self):
        self._at = None  # where the thread was at a lock
        self._began = self._since = 0.0

    def __call__(self, ident):
        """Where the thread ``ident`` may be interrupted just now, or None.

        Returns:
            The innermost frame, and None or what takes the exception in place of
            ``PyThreadState_SetAsyncExc``. They are true as long as the frame is the innermost.
        """
        frame = sys._current_frames().get(ident)
        if frame is None:
            return None  # not in Python code
        if frame.f_globals is globals():
            if frame.f_code is start_new_thread.__code__:
                return frame, frame.f_locals["interrupts"].append
            return None
        if _in_pyhook(frame) or (_at_a_lock(frame) and self._patient(frame)):
            return None
        self._at = None
        return frame, None

    def _patient(self, frame):
        now = time.monotonic()
        at = frame.f_code, frame.f_lasti
        if self._at is None:
            self._began = now
        if at != self._at:
            self._at, self._since = at, now
        return now - self._since < _PATIENCE_HERE and now - self._began < _PATIENCE


def _at_a_lock(frame):
    """Whether an exception just now might leave a lock taken."""
    lines, ends = _locking(frame.f_code)
    return frame.f_code.co_name in _LOCKING or frame.f_lineno in lines or frame.f_lasti in ends


@functools.lru_cache(maxsize=256)
def _locking(code):
    """The lines of code that name a function of a lock, and where blocks end.

    Before 3.11 an exception may also come between the end of a ``with`` or ``try`` block and the
    call of ``__exit__``, or the first line of ``finally``.
    """
    lines, ends = set(), set()
    line, in_with = None, False
    names = _LOCKING - {"acquire", "release"} if code in _WAITING else _LOCKING
    for step in dis.get_instructions(code):
        if step.starts_line:
            # Since 3.13 starts_line only says whether the instruction does.
            line = getattr(step, "line_number", step.starts_line)
            in_with = False
        if step.argval in names:
            lines.add(line)
        if sys.version_info < (3, 11):
            in_with = in_with or step.opname == "POP_BLOCK"
            if step.opname == "POP_BLOCK" or (in_with and step.opname in ("LOAD_CONST", "DUP_TOP")):
                ends.add(step.offset)
    return lines, ends


def _in_pyhook(frame):
    """Whether the thread is in pyhook's own code, or in torch's futures called by that.

    A module of pyhook names in ``_INTERRUPTIBLE`` its functions that wait with nothing half done.
    """
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if not isinstance(module, str):
            return False
        if module.partition(".")[0] == "pyhook":
            return frame.f_code.co_name not in frame.f_globals.get("_INTERRUPTIBLE", ())
        if module != "torch.futures":
            return False
        frame = frame.f_back
    return False


def absorb():
    """Where an exception comes that was raised in this thread too late (interrupt.c)."""
    for _ in range(100):
        pass


_real_start_new_thread = _thread.start_new_thread


class _Begins:
    """A new thread's function, that says first that the thread runs."""

    __slots__ = ("_function", "_runs")

    def __init__(self, function, runs):
        self._function = function
        self._runs = runs

    def __call__(self, *args, **kwargs):
        self._runs.release()
        return self._function(*args, **kwargs)

    def __repr__(self):  # CPython names the function when an exception ends the thread
        return repr(self._function)


def start_new_thread(*given):
    """As ``_thread.start_new_thread``, but returns when the thread runs."""
    if not given or not callable(given[0]):
        return _real_start_new_thread(*given)  # which raises the right error
    interrupts = []  # point's caller appends to it
    runs = _thread.allocate_lock()
    runs.acquire()
    ident = _real_start_new_thread(_Begins(given[0], runs), *given[1:])
    runs.acquire(True, 10)  # a thread without memory for its first call never runs
    if interrupts:
        raise interrupts[0]
    return ident


def install():
    """Put start_new_thread in the place of CPython's, where that is needed."""
    if sys.version_info < (3, 12):
        _thread.start_new_thread = _thread.start_new = start_new_thread
        threading._start_new_thread = start_new_thread


install()

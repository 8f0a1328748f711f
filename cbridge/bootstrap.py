"""Helpers that cbridge runs inside the interpreter it has started."""

import contextlib
import importlib.abc
import importlib.util
import marshal
import sys
import threading  # here and now, so that it knows the main thread
import traceback

_DEPTH = 16  # a longer chain of causes is cut
_TEXT = 64 * 1024  # a longer message or traceback is cut


def _cut(text):
    return text if len(text) <= _TEXT else text[:_TEXT] + f"... ({len(text)} characters)"


def _qualified(cls):
    module = getattr(cls, "__module__", None)
    name = getattr(cls, "__qualname__", None) or str(cls)
    return name if module in (None, "builtins") else f"{module}.{name}"


def _large(value):
    """Whether value is a tensor, or an array with dimensions."""
    if isinstance(value, type) or not (hasattr(value, "dtype") and hasattr(value, "shape")):
        return False
    return hasattr(value, "dim") or getattr(value, "ndim", 0) > 0


def _holds_large(value):
    return _large(value) or (isinstance(value, tuple) and any(map(_holds_large, value)))


def _form(value):
    """repr(value), but of a tensor or an array what it is, and not what is in it."""
    if isinstance(value, tuple) and _holds_large(value):
        return f"({', '.join(map(_form, value))}{',' if len(value) == 1 else ''})"
    if _large(value):
        return f"<{_qualified(type(value))} of shape {tuple(value.shape)}, {value.dtype}>"
    return repr(value)


def _text(exc):
    """str(exc); of one that was given tensors, a KeyError's key say, without their elements."""
    plain = type(exc).__str__ in (BaseException.__str__, KeyError.__str__)
    if plain and any(map(_holds_large, exc.args)):
        return _form(exc.args[0] if len(exc.args) == 1 else exc.args)
    return str(exc)


def _message(exc):
    try:
        return _cut(_text(exc))
    except BaseException as err:  # str() of an exception may raise anything
        return f"<str() of the exception raised {_qualified(type(err))}>"


def _trace(exc):
    try:
        lines = traceback.format_exception(type(exc), exc, exc.__traceback__, chain=False)
        text = _text(exc)
        return _cut("".join(lines) if text == str(exc) else "".join(lines).replace(str(exc), text))
    except BaseException:
        return ""


def _notes(exc):
    notes = getattr(exc, "__notes__", None)
    if not isinstance(notes, (list, tuple)):
        return ()
    return tuple(note for note in notes if isinstance(note, str))


def _fields(exc):
    try:
        return {k: _cut(v) for k, v in vars(exc).items() if type(k) is str and type(v) is str}
    except BaseException:
        return {}


def describe(exc):
    """(qualified type, message, traceback, notes, type's bases, text attributes, cause) of exc.

    The cause is the same tuple for __cause__, or for __context__ unless it is
    suppressed, or None.
    """
    seen = set()

    def one(exc, depth):
        if exc is None or id(exc) in seen or depth >= _DEPTH:
            return None
        seen.add(id(exc))
        cause = exc.__cause__
        if cause is None and not exc.__suppress_context__:
            cause = exc.__context__
        bases = tuple(_qualified(cls) for cls in type(exc).__mro__)
        return (
            _qualified(type(exc)),
            _message(exc),
            _trace(exc),
            _notes(exc),
            bases,
            _fields(exc),
            one(cause, depth + 1),
        )

    return one(exc, 0)


class _EmbeddedLoader(importlib.abc.ExecutionLoader):
    """Imports one package from sources held in memory."""

    def __init__(self, package, sources, codes, origin):
        # Module names; a package is one that another module is in, and the first.
        self._packages = {package, *(name.rpartition(".")[0] for name in sources)}
        self._sources = sources  # module name -> source text
        self._codes = codes  # module name -> the marshalled code of just that source
        self._origin = origin

    def find_spec(self, name, path=None, target=None):
        if name not in self._sources:
            return None
        return importlib.util.spec_from_loader(name, self, origin=self.get_filename(name))

    def is_package(self, name):
        return name in self._packages

    def get_filename(self, name):
        tail = name.split(".")[1:]
        if self.is_package(name):
            tail.append("__init__")
        return "/".join([self._origin, *tail]) + ".py"

    def get_source(self, name):
        return self._sources[name]

    def get_code(self, name):
        kept = self._codes.pop(name, None)
        if kept is not None:
            with contextlib.suppress(EOFError, TypeError, ValueError):
                return marshal.loads(kept)
        code = self.source_to_code(self.get_source(name), self.get_filename(name))
        _compiled[name] = marshal.dumps(code)
        return code

    def exec_module(self, module):
        module.__file__ = self.get_filename(module.__name__)
        super().exec_module(module)


_compiled = {}


def install_package(package, sources, codes):
    """Makes `import package` load the given sources, before any installed copy."""
    sys.meta_path.insert(0, _EmbeddedLoader(package, sources, codes, f"<embedded {package}>"))


def take_compiled():
    """Marshalled code, by module names, of what was compiled since the last call."""
    made = dict(_compiled)
    _compiled.clear()
    return made


class Interrupted(BaseException):
    """Raised in Python code whose caller's context has ended.

    Not an Exception: code that catches those would go on.
    """

    def __str__(self):  # CPython makes it without an argument
        return super().__str__() or "the context of the call has ended"


Interrupted.__module__ = "pyhook"


def stacks():
    """The stack of every thread, as text."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    here = threading.get_ident()
    parts = []
    for ident, frame in sys._current_frames().items():
        if ident != here:
            lines = "".join(traceback.format_stack(frame))
            parts.append(f"Thread {names.get(ident, ident)}:\n{lines}")
    return _cut("\n".join(parts))

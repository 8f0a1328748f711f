"""Put one object in the place of another, wherever Python code holds it."""

from __future__ import annotations

import collections
import functools
import gc
import sys
import threading
import types
from collections.abc import Sequence
from typing import Any, Callable, Optional


class StandIn:
    """What is in an object's place for a while, and cannot be used as the object."""

    __slots__ = ()

    def use(self, *_: object) -> Any:
        """Do what any use of it does: raise an error."""
        raise NotImplementedError

    def part(self, method: Optional[types.MethodType] = None) -> StandInPart:
        """Return what comes in the place of a bound method of the object, or of it as a key."""
        return StandInPart(self, method)


class StandInPart:
    """In the place of a bound method of a replaced object, or of the object where it is a key."""

    __slots__ = ("_method", "of")

    def __init__(self, of: StandIn, method: Optional[types.MethodType]) -> None:
        self.of = of
        self._method = None if method is None else method.__func__

    def __call__(self, *_: object, **__: object) -> Any:
        return self.of.use()

    def original(self, of: Any) -> Any:
        """Return what it stands for, of an object."""
        return of if self._method is None else types.MethodType(self._method, of)


_LIBRARIES = frozenset(("torch", "pyhook", "concurrent", "queue", "socket", "threading"))
"""What waits in the place of who called it."""
_DEPTH = 8
"""How many immutable containers, one inside the other, are made anew."""


def replace(
    old: Sequence[Any], new: Sequence[Any], ours: Sequence[Any] = (), deep: bool = False
) -> list[Any]:
    """Put ``new[i]`` wherever ``old[i]`` is held.

    That is in dicts, lists, sets, deques, attributes, slots, closures and the arguments of partial
    functions and methods, in place; tuples, frozensets and bound methods are made anew and replaced
    in their turn. Variables of functions that have ended, which a traceback keeps, are dropped.
    Other threads may change the holders meanwhile.

    Args:
        old: the objects. Of an immutable container that holds one, the twin is made with ``new``.
        new: what comes in their place.
        ours: containers that go on holding the old ones, as ``old`` itself does.
        deep: also look into the containers that Python's garbage collector does not know, as they
            hold nothing that could be a part of a ring: ``{"group": a group}``. Takes half a
            second where torch is imported.

    Returns:
        The holders in which it could not be replaced.
    """
    return _Replacement(deep).run(tuple(old), new, 0, {id(old), id(new), *map(id, ours)})


class _Replacement:
    def __init__(self, deep: bool) -> None:
        self._deep = deep
        self._untracked: Optional[list[Any]] = None
        self._mine: set[int] = {id(self.__dict__), id(self)}

    def run(
        self, old: tuple[Any, ...], new: Sequence[Any], depth: int, given: set[int]
    ) -> list[Any]:
        twins = {id(o): (o, n) for o, n in zip(old, new)}
        holders = self._holders(old)
        mine = self._mine | given | {id(old), id(new), id(twins), id(holders)}
        mine.update(map(id, twins.values()))
        frame: Optional[types.FrameType] = sys._getframe()
        while (
            frame is not None
        ):  # of this thread: they look at what is replaced, and do not keep it
            mine.add(id(frame))
            frame = frame.f_back
        left: list[Any] = []
        rebuilt_old: list[Any] = []
        rebuilt_new: list[Any] = []
        for holder in holders:
            if id(holder) in mine:
                continue
            twin = _twin(holder, twins)
            if twin is not None:
                rebuilt_old.append(holder)
                rebuilt_new.append(twin)
            elif not _replace_in(holder, twins):
                left.append(holder)
        if not rebuilt_old:
            return left
        if depth == _DEPTH:
            return left + rebuilt_old
        self._mine |= {id(holders), id(rebuilt_old), id(rebuilt_new), id(left)}
        return left + self.run(tuple(rebuilt_old), rebuilt_new, depth + 1, given)

    def _holders(self, of: tuple[Any, ...]) -> list[Any]:
        holders = gc.get_referrers(*of)
        if not self._deep:
            return holders
        if self._untracked is None:
            self._untracked = _untracked()
            self._mine.add(id(self._untracked))
        wanted = {id(o) for o in of}
        for holder in self._untracked:
            values = holder.values() if type(holder) is dict else holder
            if not wanted.isdisjoint(map(id, values)) or (
                type(holder) is dict and not wanted.isdisjoint(map(id, holder))
            ):
                holders.append(holder)
        return holders


def _untracked() -> list[Any]:
    """The dicts and tuples that the garbage collector does not know."""
    found: dict[int, Any] = {}
    owners = gc.get_objects()
    while owners:
        inside = [
            value
            for value in gc.get_referents(*owners)
            if (type(value) is dict or type(value) is tuple)
            and not gc.is_tracked(value)
            and id(value) not in found
        ]
        owners = inside  # there may be more in them
        found.update((id(value), value) for value in inside)
    return list(found.values())


_Twins = dict[int, tuple[Any, Any]]


def _new(value: Any, twins: _Twins) -> Any:
    """What comes in the place of a value: itself, for most."""
    found = twins.get(id(value))
    return value if found is None else found[1]


def _new_key(value: Any, twins: _Twins) -> Any:
    new = _new(value, twins)
    return new.part() if new is not value and isinstance(new, StandIn) else new


def _twin(holder: Any, twins: _Twins) -> Optional[Any]:
    """A new immutable holder; None for what is replaced in place."""
    kind = type(holder)
    if isinstance(holder, tuple) and (kind is tuple or hasattr(kind, "_fields")):
        return tuple.__new__(kind, [_new(value, twins) for value in holder])
    if kind is frozenset:
        return frozenset(_new_key(value, twins) for value in holder)
    if kind is types.MethodType:
        owner = _new(holder.__self__, twins)
        if isinstance(owner, StandIn):
            return owner.part(holder)
        return types.MethodType(_new(holder.__func__, twins), owner)
    if kind is StandInPart:
        return holder.original(_new(holder.of, twins))
    return None


def _replace_in(holder: Any, twins: _Twins) -> bool:
    """Replace in place. False: this is no holder in which that can be done."""
    for kind, replace_one in _IN_PLACE:
        if isinstance(holder, kind):
            return replace_one(holder, twins)
    return _in_attributes(holder, twins)


def _in_dict(holder: dict[Any, Any], twins: _Twins) -> bool:
    owners = [o for o in gc.get_referrers(holder) if isinstance(o, type)]
    for name, value in list(holder.items()):
        if id(value) not in twins:
            continue
        owner = next((o for o in owners if vars(o).get(name) is value), None)
        if owner is not None:  # else the type's cache of attributes kept the former one
            setattr(owner, name, _new(value, twins))
        else:
            holder[name] = _new(value, twins)
    if any(id(key) in twins for key in list(holder)):
        items = [(_new_key(key, twins), value) for key, value in list(holder.items())]
        holder.clear()
        holder.update(items)
    return True


def _in_list(holder: Any, twins: _Twins) -> bool:
    for i, value in enumerate(list(holder)):
        if id(value) in twins and i < len(holder) and holder[i] is value:
            holder[i] = _new(value, twins)
    return True


def _in_set(holder: set[Any], twins: _Twins) -> bool:
    for value in [value for value in list(holder) if id(value) in twins]:
        holder.discard(value)
        holder.add(_new_key(value, twins))
    return True


def _in_cell(holder: types.CellType, twins: _Twins) -> bool:
    holder.cell_contents = _new(holder.cell_contents, twins)
    return True


def _in_partial(holder: functools.partial[Any], twins: _Twins) -> bool:
    args = tuple(_new(value, twins) for value in _new(holder.args, twins))
    state = (_new(holder.func, twins), args, holder.keywords, holder.__dict__ or None)
    holder.__setstate__(state)  # type: ignore[attr-defined]
    return True


def _in_function(holder: types.FunctionType, twins: _Twins) -> bool:
    if holder.__defaults__ is not None:
        holder.__defaults__ = _new(holder.__defaults__, twins)
    return holder.__closure__ is None or id(holder.__closure__) not in twins


def _in_frame(holder: types.FrameType, _: _Twins) -> bool:
    owners = gc.get_referrers(holder)
    if any(isinstance(o, (types.GeneratorType, types.CoroutineType)) for o in owners):
        return False
    try:
        holder.clear()
    except RuntimeError:  # it runs
        return False
    return True


def _in_attributes(holder: Any, twins: _Twins) -> bool:
    """Replace in an object's attributes and slots."""
    found = False
    for cls in type(holder).__mro__:
        for member in list(vars(cls).values()):
            if not isinstance(member, types.MemberDescriptorType):
                continue
            try:
                value = member.__get__(holder)
                if id(value) in twins:
                    member.__set__(holder, _new(value, twins))
                    found = True
            except (AttributeError, TypeError):  # not set; read-only
                continue
    attributes = getattr(holder, "__dict__", None)
    if type(attributes) is dict and any(id(value) in twins for value in list(attributes.values())):
        found = _in_dict(attributes, twins)
    return found


_IN_PLACE: list[tuple[Any, Callable[[Any, _Twins], bool]]] = [
    (dict, _in_dict),
    ((list, collections.deque), _in_list),
    (set, _in_set),
    (types.CellType, _in_cell),
    (functools.partial, _in_partial),
    (types.FunctionType, _in_function),
    (types.FrameType, _in_frame),
]


def describe(holder: Any) -> str:
    """Name a holder, and where it is held itself, as far as that is known."""
    return " of ".join(_way(holder, 4, {id(holder)}))


def running() -> list[str]:
    """Name what other threads are in: hook calls, mostly.

    Returns:
        Of each thread the innermost function that is none of the libraries'.
    """
    found = []
    for thread, innermost in sys._current_frames().items():
        frame: Optional[types.FrameType] = innermost
        while frame is not None and _is_library(frame):
            frame = frame.f_back
        if frame is not None and thread != threading.get_ident():
            found.append(_function(frame))
    return found


def _is_library(frame: types.FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return module in _LIBRARIES


def _function(frame: types.FrameType) -> str:
    return f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"


def _way(holder: Any, steps: int, seen: set[int]) -> list[str]:
    if isinstance(holder, types.FrameType):
        return [f"a variable of the function {_function(holder)}, which has not ended"]
    code = getattr(holder, "gi_code", None) or getattr(holder, "cr_code", None)
    kind = type(holder)
    name = f"a {kind.__module__}.{kind.__qualname__}"
    if code is not None:
        name += f" of {code.co_name} ({code.co_filename}:{code.co_firstlineno})"
    if steps == 0:
        return [name]
    owners = gc.get_referrers(holder)
    for owner in owners:
        if id(owner) in seen or owner is owners or isinstance(owner, types.FrameType):
            continue
        found = _attribute(owner, holder)
        if found is not None:
            return [f"{name}, {found}"]
    return [name]


def _attribute(owner: Any, holder: Any) -> Optional[str]:
    """Under which name an owner holds it: "hooks.cache" of a module, ".cache of a hooks.State"."""
    attributes = owner if type(owner) is dict else getattr(owner, "__dict__", None)
    if not isinstance(attributes, dict):
        return None
    name = next(
        (k for k, v in list(attributes.items()) if v is holder and isinstance(k, str)), None
    )
    if name is None:
        return None
    module = attributes.get("__name__")
    if isinstance(module, str) and "__builtins__" in attributes:
        return f"{module}.{name}"
    instances = [owner]
    if type(owner) is dict:
        instances = [o for o in gc.get_referrers(owner) if getattr(o, "__dict__", None) is owner]
    if not instances:
        return f"item {name!r} of a dict"
    kind = type(instances[0])
    return f"attribute {name} of a {kind.__module__}.{kind.__qualname__}"

"""Decodes a state from a JSON tree and bytes. ``file`` describes the format.

The file is not trusted: names in it are looked up in lists of pyhook's own, every offset and size
is checked, and what is wrong is a StateError. Everything is decoded before anything is applied, so
that a file which is refused leaves the state as it was.
"""

from __future__ import annotations

import collections
import inspect
import pickle
from typing import Any, Callable, Optional

import torch

from .._errors import StateError
from .._loading.modules import find_stable
from .._runtime.parameters import by_trainers_name
from .arrays import Memory
from .decode_leaves import LEAVES
from .parts import (
    FACTORIES,
    GROUP,
    MAX_DEPTH,
    MISSING,
    class_name,
    content_of,
    kept,
    restore_content,
    same_name,
    short,
)

_KINDS = {"list": list, "set": set, "deque": collections.deque}
_DICTS = {
    "dict": dict,
    "OrderedDict": collections.OrderedDict,
    "defaultdict": collections.defaultdict,
}


class Decoder:
    """Makes the values of one file.

    A value's *counterpart* is what the state to restore has for it. Objects, containers and random
    generators are filled in place, so that all who hold them see the restored ones; tensors and
    arrays are replaced.
    """

    def __init__(
        self, storages: list[Any], payload: bytes, trusted: bool, device: Optional[str]
    ) -> None:
        self.memory = Memory(storages, payload, device)
        self._trusted = trusted
        self._depth = 0
        self._fresh = 0  # above 0: containers are made, and none filled in place
        self._made: dict[int, Any] = {}
        self._claimed: dict[int, Any] = {}  # by id: counterparts that are in use
        self.steps: list[tuple[str, Callable[[], Any]]] = []

    def apply(self) -> None:
        """Fill what ``decode`` has found, children before their parents."""
        for path, step in self.steps:
            try:
                with torch.no_grad():
                    step()
            except Exception as error:
                raise StateError(
                    "state_failed", f"{path}: restoring raised {type(error).__name__}: {error}"
                ) from error

    def decode(self, node: Any, old: Any, path: str) -> Any:
        if node is None and kept(old) == GROUP:
            return old
        if type(node) is not dict:
            if node is not None and type(node) not in (bool, int, float, str):
                raise ValueError(f"a {type(node).__name__} is no node")
            return old if type(old) is type(node) and repr(old) == repr(node) else node
        kind = node["t"]
        if kind == "ref":
            return self._made[node["id"]]
        if self._depth > MAX_DEPTH + 2:
            raise ValueError("nested too deeply")
        self._depth += 1
        value = _DECODERS[kind](self, node, old, path)
        self._depth -= 1
        if "id" in node:
            self._made[node["id"]] = value
        return value

    def claim(self, old: Any, usable: bool) -> bool:
        """Return whether a counterpart may be filled: for one value only."""
        if not usable or id(old) in self._claimed:
            return False
        self._claimed[id(old)] = old
        return True

    def later(self, path: str, step: Callable[[], Any]) -> None:
        self.steps.append((path, step))

    # Containers.

    def _items(self, nodes: Any, old: Any, path: str) -> list[Any]:
        if type(nodes) is not list:
            raise ValueError("not a list")
        olds = list(old) if isinstance(old, (list, tuple, collections.deque)) else []
        olds += [MISSING] * (len(nodes) - len(olds))
        return [self.decode(n, o, f"{path}[{i}]") for i, (n, o) in enumerate(zip(nodes, olds))]

    def _container(self, node: Any, old: Any, path: str) -> Any:
        kind: Any = _KINDS[node["t"]]
        limit = node.get("max")
        fits = type(old) is kind and (kind is not collections.deque or old.maxlen == limit)
        target: Any = old
        if not self.claim(old, fits and not self._fresh):
            target = collections.deque(maxlen=limit) if kind is collections.deque else kind()
        self._made[node["id"]] = target
        items = self._items(node["v"], old if kind is not set else MISSING, path)
        if kind is set:
            hash(frozenset(items))

        def fill() -> None:
            target.clear()
            (target.update if kind is set else target.extend)(items)

        self.later(path, fill)
        return target

    def _dict(self, node: Any, old: Any, path: str, attributes: bool = False) -> Any:
        kind = _DICTS[node["cls"]]
        fits = type(old) is kind
        if kind is collections.defaultdict:
            factory = FACTORIES[node["factory"]] if "factory" in node else None
            fits = fits and old.default_factory is factory
            new: Any = collections.defaultdict(factory)
        else:
            new = kind()
        target = old if self.claim(old, fits and not self._fresh and not attributes) else new
        self._made[node["id"]] = target
        olds = old if isinstance(old, dict) else {}
        items = []
        for key_node, item in node["v"]:
            key = self.decode(key_node, MISSING, path + " key")
            where = f"{path}.{_name(key)}" if attributes else f"{path}[{short(key)}]"
            items.append((key, self.decode(item, olds.get(key, MISSING), where)))

        def fill() -> None:
            target.clear()
            target.update(items)

        self.later(path, fill)
        return target

    def _tuple(self, node: Any, old: Any, path: str) -> Any:
        items = self._items(node["v"], old, path)
        kind = {"tuple": tuple, "frozenset": frozenset, "Size": torch.Size}[node["t"]]
        if kind is not tuple:
            made = kind(items)
            return old if type(old) is kind and old == made else made
        # Keep the tuple if all in it was restored in place.
        same = type(old) is tuple and len(old) == len(items)
        return old if same and all(a is b for a, b in zip(old, items)) else tuple(items)

    # Objects.

    def _object(self, node: Any, old: Any, path: str) -> Any:
        name, how = node["class"], node["how"]
        parts: tuple[str, Any]
        if (
            old is MISSING
            or not same_name(name, class_name(type(old)))
            or not self.claim(old, True)
        ):
            if not self._trusted:
                there: Any = "nothing" if old is MISSING else f"a {class_name(type(old))}"
                if id(old) in self._claimed:
                    there = "an object that stands for another one already"
                raise StateError(
                    "state_class",
                    f"{path}: the file has a {short(name)}, and the state to restore {there}",
                    "classes named in a file are not imported: make the state as the saved one "
                    "was made, with this object in its place, or load with trusted=True",
                )
            old, parts = _new(name), (how, MISSING)
        else:
            parts = content_of(old) or ("", None)
        self._made[node["id"]] = old
        if parts[0] != how:
            raise StateError(
                "state_class",
                f"{path}: the file has the {short(how)} of a {name}, and this one shows its "
                f"{short(parts[0])}",
                "it was saved with another version of the class",
            )
        # A setter may empty the container that its getter showed.
        self._fresh += how != "attributes"
        content_node = node["v"]
        if type(content_node) is dict and content_node.get("t") == "dict":
            content = self._dict(content_node, parts[1], path, attributes=True)
        else:
            content = self.decode(content_node, parts[1], path)
        self._fresh -= how != "attributes"
        if how == "attributes":
            self._check_attributes(old, content_node, path)
        target = old
        self.later(path, lambda: restore_content(target, how, content))
        return old

    def _check_attributes(self, target: Any, node: Any, path: str) -> None:
        """Refuse attributes for which an object without ``__dict__`` has no slot."""
        for name, _ in node["v"]:
            if type(name) is not str or name.startswith("__"):
                raise ValueError(f"an attribute {short(name)}")
            if not hasattr(target, "__dict__") and not hasattr(type(target), name):
                raise StateError(
                    "state_class",
                    f"{path}: the file has {short(name)}, for which this "
                    f"{class_name(type(target))} has no slot",
                    "it was saved with another version of the class",
                )

    def _keep(self, node: Any, old: Any, path: str) -> Any:
        wanted = node["v"]
        if old is None and wanted == GROUP:
            return None  # the default group, or one that the hook makes when it needs it
        if old is MISSING or not same_name(wanted, kept(old)):
            raise StateError(
                "state_class",
                f"{path}: the saved state had a {short(wanted)} here, which is not in the "
                "file, and the state to restore has "
                + ("nothing" if old is MISSING else kept(old) or f"a {class_name(type(old))}"),
                "load into a state that was made as the saved one was",
            )
        return old

    def _model_parameter(self, node: Any, old: Any, path: str) -> Any:
        """Return the trainer's parameter to which a state refers, or its address."""
        found = by_trainers_name(node["v"])
        if len(found) != 1:
            raise StateError(
                "state_class",
                f"{path}: the saved state refers to the model's parameter {short(node['v'])}, and "
                f"there are {len(found)} of this name here",
                "load it into a state that was made with the parameters (HookConfig.Parameters), "
                "each of which has a name of its own",
            )
        return found[0] if node["t"] == "model_parameter" else id(found[0])

    def _pickle(self, node: Any, old: Any, path: str) -> Any:
        if not self._trusted:
            raise StateError(
                "state_unsafe",
                f"{path}: the file has a pickle here, and loading it can run any program",
                "load with trusted=True if you wrote the file yourself, and only then",
            )
        try:
            return pickle.loads(self.memory.blob(node["at"]))
        except Exception as error:
            raise StateError("state_failed", f"{path}: {type(error).__name__}: {error}") from error


def _new(name: Any) -> Any:
    """Make an instance, not initialised, of a class by name. For trusted files only."""
    if type(name) is not str:
        raise ValueError("class")
    words = name.split(".")
    found: Any
    for i in range(len(words) - 1, 0, -1):
        try:
            found = find_stable(".".join(words[:i]))
            for word in words[i:]:
                found = getattr(found, word)
        except (ImportError, AttributeError):
            continue
        if isinstance(found, type):
            if any(kind.__name__ == "pybind11_type" for kind in inspect.getmro(type(found))):
                # Without the constructor, C++'s methods would read what nobody set.
                raise StateError(
                    "state_class", f"{short(name)} is C++'s, made by its constructor only"
                )
            return found.__new__(found)  # type: ignore[call-overload]
    raise StateError("state_class", f"there is no class {short(name)} here")


def _name(value: Any) -> str:
    return value if type(value) is str and value.isidentifier() else short(value)


_DECODERS: dict[str, Callable[[Decoder, Any, Any, str], Any]] = {
    **LEAVES,
    "list": Decoder._container,
    "set": Decoder._container,
    "deque": Decoder._container,
    "dict": Decoder._dict,
    "tuple": Decoder._tuple,
    "frozenset": Decoder._tuple,
    "Size": Decoder._tuple,
    "object": Decoder._object,
    "keep": Decoder._keep,
    "model_parameter": Decoder._model_parameter,
    "address": Decoder._model_parameter,
    "pickle": Decoder._pickle,
}

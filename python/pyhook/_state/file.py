"""Saves and restores a hook's state, so that a resumed run is the run that was not stopped.

    data = save_state(state)
    ...
    state = PowerSGDState(process_group=None, matrix_approximation_rank=2)
    load_state(data, into=state)

Every rank saves its own state between steps (PowerSGD's error feedback differs from rank to
rank). What is restored is bitwise what was saved: tensors of any dtype with their strides and
shared memory, arrays, random generators, the order and the key types of dicts.

It is restored *into* a state that was made as the first one was. That has what no file can hold
(process groups, locks, streams), and no name in a file has to find a class. Values in the file win
over those of ``into``, hyper-parameters too.

Loading is safe by default: a file cannot make this program run anything. What only pickle can
write is refused, unless ``trusted=True`` on both sides.

Not saved, since the state does not hold them: torch's, numpy's and Python's *global* random
generators, variables of a hook's module, and what a closure holds.

The format
==========
::

    8 bytes    magic
    32 bytes   SHA-256 of all that follows: against accidents, not against forgers
    4 bytes    version, little-endian
    8 bytes    length of the header, little-endian
    header     JSON: class, rank, versions, "state" (a tree of nodes), "storages"
    payload    bytes that nodes point into by [offset, length]

Every version keeps the magic and the digest, so that a damaged file is never taken for a new one.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import platform
import struct
from typing import Any, Optional, Union

import torch
import torch.distributed as dist

from .. import __version__
from .._device.streams import synchronize_used, wait_out
from .._errors import StateError
from .decode import Decoder
from .encode import Encoder
from .parts import GROUP, MISSING, class_name, kept, same_name

MAGIC = b"\x89pyhook\n"
VERSION = 1

_FIXED = struct.Struct("<IQ")  # version, length of the header
_START = len(MAGIC) + hashlib.sha256().digest_size
_UNKNOWN = "unknown"  # the buckets of a state that Python saved


def save_state(state: Any, trusted: bool = False) -> bytes:
    """Return the state as bytes for ``load_state``.

    Call it between steps, when the futures of all buckets are done. The bytes do not say which
    buckets a tensor of the state belongs to.

    Args:
        state: None, a process group (both save as an empty state), or an object. Its content is
            its ``state_dict()`` if it has that and ``load_state_dict()``; else what pickle would
            write of it (``__getstate__``, or its slots and attributes).
        trusted: pickle what cannot be written otherwise.

    Raises:
        StateError: ``state_unsafe`` names what cannot be saved:
            ``state.buffers[3].future: <class>``; ``state_failed``.
    """
    return _save(state, [], trusted, _UNKNOWN)


def load_state(
    data: bytes,
    into: Any = None,
    trusted: bool = False,
    *,
    any_rank: bool = False,
    device: Optional[str] = None,
) -> Any:
    """Return the state that ``save_state`` saved.

    Args:
        data: the bytes.
        into: a state made as the saved one was, which is filled and returned. Its objects,
            containers and random generators are filled in place, its tensors and arrays replaced.
            Without it only plain values can be restored (dicts, lists, tensors, ...), unless
            ``trusted``.
        trusted: let the file run pickles and name classes. Only for files that you wrote yourself.
        any_rank: take the state of another rank, or of a group of another size. The run is then
            not the one that was stopped.
        device: put tensors there, not on the device that they were on.

    Raises:
        StateError: see its codes. But for ``state_failed``, ``into`` is as it was.
    """
    target = MISSING if into is None else into
    return _restore(data, target, [], trusted=trusted, any_rank=any_rank, device=device)


def save_hook(
    hook: Any, state: Any, trusted: bool = False, buckets: Optional[Union[list[Any], str]] = None
) -> bytes:
    """Save a hook's state and what the hook itself holds.

    A bound method or a callable object holds its object, a ``partial`` its arguments. ``buckets``
    describes the buckets of the last step, for ``restore_hook``.
    """
    return _save(state, _carried(hook), trusted, buckets)


def restore_hook(
    data: bytes, hook: Any, state: Any, trusted: bool, any_rank: bool
) -> Optional[Union[list[Any], str]]:
    """Restore in place what ``save_hook`` or ``save_state`` saved.

    Returns:
        The ``buckets`` that the state depends on, "unknown" if ``save_state`` wrote it, or None if
        it holds no tensor.
    """
    _restore(data, state, _carried(hook), trusted=trusted, any_rank=any_rank, device=None)
    header, _ = _open(data)
    buckets = header.get("buckets")
    known = isinstance(buckets, list) or buckets == _UNKNOWN
    return buckets if header["storages"] and known else None


def put_back_hook(data: bytes, hook: Any, state: Any) -> None:
    """``restore_hook`` after a step that failed."""
    wait_out()
    restore_hook(data, hook, state, trusted=False, any_rank=True)


def has_state(hook: Any, state: Any) -> bool:
    """Whether ``save_hook`` has something to save: not of None and process groups."""
    return _class(state) != "" or bool(_carried(hook))


def state_info(data: bytes) -> dict[str, Any]:
    """Return what a file says of itself: class, rank, world_size, versions, pickled paths."""
    header, payload = _open(data)
    info = {name: header.get(name) for name in _INFO}
    return {**info, "bytes": len(payload)}


_INFO = ("class", "carried", "rank", "world_size", "pickled", "pyhook", "torch", "python")


def _carried(hook: Any) -> list[Any]:
    """Return what a hook holds. What a function holds cannot be seen."""
    parts: list[Any] = []
    while isinstance(hook, functools.partial):
        if hook.args or hook.keywords:
            parts += [hook.args, hook.keywords]
        hook = hook.func
    if inspect.ismethod(hook):
        hook = hook.__self__
    if not inspect.isroutine(hook) and kept(hook) is None:
        parts.append(hook)
    return parts


def _save(
    state: Any, carried: list[Any], trusted: bool, buckets: Optional[Union[list[Any], str]] = None
) -> bytes:
    synchronize_used()  # a state's own methods may read what hooks' streams have begun to write
    encoder = Encoder(trusted)
    root = encoder.encode(state, "state")
    parts = [encoder.encode(part, "hook") for part in carried]
    rank, size = _rank_and_size()
    header = {
        "class": _class(state),
        "carried": [_class(part) for part in carried],
        "rank": rank,
        "world_size": size,
        "pyhook": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "pickled": encoder.pickled,
        "state": root,
        "hook": parts,
        "storages": encoder.storages,
        "buckets": buckets,
    }
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    chunks = [_FIXED.pack(VERSION, len(text)), text, *encoder.blobs]
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return b"".join([MAGIC, digest.digest(), *chunks])


def _class(state: Any) -> str:
    """Return the class's name, or "" for a state without content."""
    return "" if state is None or kept(state) == GROUP else class_name(type(state))


def _rank_and_size() -> tuple[Optional[int], Optional[int]]:
    if not dist.is_initialized():
        return None, None
    return int(dist.get_rank()), int(dist.get_world_size())


def _open(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return header and payload of a file that is whole and of this version."""
    data = bytes(data)
    if len(data) < _START + _FIXED.size or not data.startswith(MAGIC):
        what = "it is empty" if not data else "it does not begin as one, or is cut short"
        raise StateError("state_corrupt", f"this is not a saved state: {what}")
    body = memoryview(data)[_START:]
    if hashlib.sha256(body).digest() != data[len(MAGIC) : _START]:
        raise StateError(
            "state_corrupt",
            "the saved state is damaged: its digest does not fit",
            "it was cut short or changed after it was written; take another checkpoint",
        )
    version, length = _FIXED.unpack_from(body)
    if version != VERSION:
        raise StateError(
            "state_version",
            f"the saved state has format version {version}, and this is pyhook {__version__}, "
            f"which reads version {VERSION}",
            "load it with the pyhook that wrote it"
            + (", a newer one" if version > VERSION else ""),
        )
    try:
        # A str: json would guess the encoding of bytes, and import a codec for it.
        header = json.loads(str(body[_FIXED.size : _FIXED.size + length], "ascii"))
        if not isinstance(header, dict):
            raise ValueError("the header is no object")
    except (ValueError, RecursionError) as error:
        raise StateError(
            "state_corrupt", f"the saved state's header cannot be read: {error}"
        ) from error
    return header, bytes(body[_FIXED.size + length :])


def _restore(
    data: bytes,
    into: Any,
    carried: list[Any],
    *,
    trusted: bool,
    any_rank: bool,
    device: Optional[str],
) -> Any:
    header, payload = _open(data)
    if into is MISSING and header.get("class") == "":
        into = None
    _check_class(header, into, carried)
    if not any_rank:
        _check_rank(header)
    synchronize_used()  # hooks may have enqueued what writes to the state
    try:
        decoder = Decoder(header["storages"], payload, trusted, device)
        state = decoder.decode(header["state"], into, "state")
        parts = [decoder.decode(node, old, "hook") for node, old in zip(header["hook"], carried)]
    except StateError:
        raise
    except Exception as error:  # a file may contain anything
        raise StateError(
            "state_corrupt",
            f"the saved state cannot be read: {type(error).__name__}: {error!s:.200}",
        ) from error
    for new, old in zip([state, *parts], [into, *carried]):
        if old is not MISSING and new is not old:
            raise StateError(
                "state_immutable",
                f"a state of class {class_name(type(old))} cannot be restored in place",
                "keep what changes in an object, a list or a dict",
            )
    decoder.apply()
    synchronize_used()  # a setter may have enqueued copies, and hooks run on other streams
    return state


def _check_class(header: dict[str, Any], into: Any, carried: list[Any]) -> None:
    saved, here = header.get("class"), MISSING if into is MISSING else _class(into)
    if here is not MISSING and not same_name(saved, here):
        raise StateError(
            "state_class",
            f"the file holds {_describe(saved)}, and the state to restore is {_describe(here)}",
            "make the hook with the state that it was saved with",
        )
    names = header.get("carried")
    if not (
        isinstance(names, list)
        and len(names) == len(carried)
        and all(same_name(name, _class(part)) for name, part in zip(names, carried))
    ):
        raise StateError(
            "state_class",
            f"the file was saved with a hook that holds {names!r:.200}, and this "
            f"one holds {[_class(part) for part in carried]}",
            "load it into the hook that it was saved with",
        )


def _describe(name: Any) -> str:
    return "an empty state (None or a process group)" if name == "" else f"a {name!r:.200}"


def _check_rank(header: dict[str, Any]) -> None:
    rank, size = _rank_and_size()
    saved = (header.get("rank"), header.get("world_size"))
    if header.get("class") == "" and not header.get("carried"):
        return  # empty
    if rank is not None and saved[0] is not None and saved != (rank, size):
        raise StateError(
            "state_rank",
            f"the state is that of rank {saved[0]!r:.20} of {saved[1]!r:.20}, and this is rank "
            f"{rank} of {size}",
            "each rank saves and loads its own; any_rank=True takes it all the same, and then "
            "the run is not quite the one that was stopped",
        )

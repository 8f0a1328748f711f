"""What a hook may return, and where the error of its callback came from.

The rules are PyTorch's (torch/csrc/distributed/c10d/python_comm_hook.cpp: runHook), except where
PyTorch crashes (None). ``result`` has those for the future's value.
"""

from __future__ import annotations

import concurrent.futures
import inspect
import re
import sys
from typing import Any, NamedTuple, Optional

import torch

from .._errors import HookContractError

WORDING = "callback must return a torch.futures.Future object, but got"
"""PyTorch's own words, which users search for and tests match on."""


def require_future(obj: Any) -> Any:
    """Return ``obj`` if it is a ``torch._C.Future``, which a hook may return.

    That is the base type: ``then`` and ``Work.get_future`` return no ``torch.futures.Future``.

    Raises:
        HookContractError: ``none_result``, where PyTorch dereferences null, or ``not_future``,
            with PyTorch's wording and a hint for the case. A coroutine is closed, so that Python
            does not warn that it was never awaited.
    """
    if isinstance(obj, torch._C.Future):
        return obj
    kind = f"{type(obj).__module__}.{type(obj).__qualname__}"
    message = f"DDP communication hook's {WORDING} {kind}"
    if obj is None:
        raise HookContractError(
            "none_result",
            f"{message} (None)",
            "the hook returned nothing: end it with `return future` "
            "(PyTorch itself crashes the process here)",
        )
    raise HookContractError("not_future", message, _hint_for_result(obj))


def _hint_for_result(obj: Any) -> str:
    if inspect.iscoroutine(obj):
        obj.close()
        return "`async def` hooks are not supported: write a plain def that returns a Future"
    if isinstance(obj, torch.Tensor):
        return "wrap the tensor: `fut = torch.futures.Future(); fut.set_result(tensor); return fut`"
    if hasattr(obj, "get_future") and hasattr(obj, "wait"):
        return (
            "return the work's future and pick the tensor out of it: "
            "`work.get_future().then(lambda fut: fut.value()[0])`"
        )
    # A hook with an asyncio future has imported asyncio. Importing it here would cost 13 ms.
    asyncio = sys.modules.get("asyncio")
    others = (concurrent.futures.Future,) + ((asyncio.Future,) if asyncio else ())
    if isinstance(obj, others):
        return "use a torch.futures.Future and set_result it from the other future's callback"
    if isinstance(obj, type):
        return f"the class {obj.__qualname__} itself was returned: make an instance of it"
    if isinstance(obj, (list, tuple)):
        return "return one Future; torch.futures.collect_all(...).then(...) joins several"
    if inspect.isgenerator(obj):
        return "the hook has a `yield` in it, so calling it only made a generator"
    if callable(obj):
        return "a function was returned: is a call missing, or is this a wrapper given as a hook?"
    return "a hook returns a Future of the reduced flat tensor"


class CallbackOrigin(NamedTuple):
    """What PyTorch's text says of an exception that a ``then`` callback raised."""

    type: str
    message: str
    frames: str


_CALLBACK_PREFIX = "Got the following error when running the callback: "


def callback_origin(error: BaseException) -> Optional[CallbackOrigin]:
    """Return the original type, message and frames of an error in a ``then`` callback, or None.

    PyTorch keeps only text: ``Got the following error when running the callback: <Type>:
    <message>\\n\\nAt:\\n  file(line): function...`` (torch/csrc/jit/python/pybind_utils.h,
    PythonFutureWrapper::then), with one such prefix for each ``then`` on its way. This takes the
    innermost.
    """
    text = str(error)
    start = text.rfind(_CALLBACK_PREFIX)
    if start < 0:
        return None
    body, _, frames = text[start + len(_CALLBACK_PREFIX) :].partition("\n\nAt:\n")
    match = re.match(r"([A-Za-z_][\w.]*): ?(.*)", body, re.DOTALL)
    if match is None:
        return CallbackOrigin("", body, frames)
    return CallbackOrigin(match.group(1), match.group(2), frames)

"""What ``pyhook check`` asks of Python besides the hook's calls."""

from __future__ import annotations

import inspect
import random
import sys
from typing import Any, Callable, NoReturn, Optional

import torch
from torch.nn.parallel import DistributedDataParallel


class _Asker:
    """Stands for the model in DDP's own check, which only raises through it."""

    def _log_and_throw(self, kind: type[Exception], message: str) -> NoReturn:
        raise kind(message)


def stock_refusal(hook: Any) -> str:
    """Return why ``register_comm_hook`` of this torch would refuse the hook, or "".

    It calls torch's own check (``DistributedDataParallel._check_comm_hook``), which is stricter
    than ``check_hook``, and reads ``__qualname__``, as ``register_comm_hook`` does for DDP's log.
    """
    check: Optional[Callable[[Any, Any], None]]
    check = getattr(DistributedDataParallel, "_check_comm_hook", None)
    if check is None:
        return ""
    try:
        check(_Asker(), hook)
        hook.__qualname__  # noqa: B018
    except KeyError as error:
        if error.args != ("bucket",):
            raise
        return f"its parameter must be called bucket (KeyError: 'bucket'): {_parameters(hook)}"
    except AttributeError as error:
        return f"it has no name: a function has one, {type(hook).__name__} objects do not ({error})"
    except Exception as error:
        return f"{error} ({type(error).__name__}){_annotations(hook)}"
    return ""


def _parameters(hook: Any) -> str:
    return f"its parameters are {inspect.signature(hook)}"


def _annotations(hook: Any) -> str:
    """Return a note if annotations are texts: DDP compares them with the classes."""
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):
        return ""
    values = [p.annotation for p in signature.parameters.values()] + [signature.return_annotation]
    if any(isinstance(value, str) for value in values):
        return "; with `from __future__ import annotations` they are texts, which DDP does not read"
    return ""


def random_states() -> tuple[Any, ...]:
    """Return the states of the generators of torch, ``random`` and numpy."""
    numpy = sys.modules.get("numpy")
    return (
        torch.get_rng_state(),
        random.getstate(),
        None if numpy is None else numpy.random.get_state(),
    )


def set_random_states(states: tuple[Any, ...]) -> None:
    """Restore them, so that a second run draws what the first one drew."""
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    numpy = sys.modules.get("numpy")
    if numpy is not None and states[2] is not None:
        numpy.random.set_state(states[2])

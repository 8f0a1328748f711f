"""Run PyTorch DDP communication hooks outside of DDP, and unit-test them.

    from pyhook import testing
    bucket = testing.bucket([torch.ones(2, 3), torch.ones(4)])
    result = testing.run(my_hook, None, bucket)

``pyhook.capture`` takes hooks that an object registers with a DDP model, ``pyhook.record`` records
a hook inside a PyTorch job.

Importing pyhook does not import torch; using what needs it does, and then says
clearly if torch is missing. Modules whose names start with an underscore are
for pyhook's Go side.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._errors import (
    GroupError,
    HookContractError,
    HookError,
    HookLoadError,
    RankError,
    RecordError,
    StateError,
)
from ._loading.load import build_state, check_hook, load_hook
from ._loading.names import SHORT_NAMES, hook_name

if TYPE_CHECKING:
    from . import capture as capture
    from . import testing as testing
    from ._record.recorder import record as record
    from ._runtime.bucket import Bucket as Bucket
    from ._runtime.contract import callback_origin as callback_origin
    from ._runtime.contract import require_future as require_future
    from ._runtime.parameters import Parameters as Parameters
    from ._runtime.result import parse_value as parse_value
    from ._state.file import load_state as load_state
    from ._state.file import save_state as save_state
    from ._state.file import state_info as state_info

__version__ = "0.1.0"

__all__ = [
    "SHORT_NAMES",
    "Bucket",
    "GroupError",
    "HookContractError",
    "HookError",
    "HookLoadError",
    "Parameters",
    "RankError",
    "RecordError",
    "StateError",
    "__version__",
    "build_state",
    "callback_origin",
    "capture",
    "check_hook",
    "hook_name",
    "load_hook",
    "load_state",
    "parse_value",
    "record",
    "require_future",
    "save_state",
    "state_info",
    "testing",
]

_NEED_TORCH = {
    "Bucket": "._runtime.bucket",
    "Parameters": "._runtime.parameters",
    "callback_origin": "._runtime.contract",
    "parse_value": "._runtime.result",
    "record": "._record.recorder",
    "require_future": "._runtime.contract",
    "load_state": "._state.file",
    "save_state": "._state.file",
    "state_info": "._state.file",
}


def __getattr__(name: str) -> Any:
    if name in ("capture", "testing"):
        return importlib.import_module(f".{name}", __name__)
    if name in _NEED_TORCH:
        return getattr(importlib.import_module(_NEED_TORCH[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

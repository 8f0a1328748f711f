"""Which communication hooks does this torch ship?"""

from __future__ import annotations

import importlib
import inspect
import pkgutil

PACKAGE = "torch.distributed.algorithms.ddp_comm_hooks"


def hooks() -> list[str]:
    """Every function of the package that is a hook, or that makes one of another hook."""
    found = set()
    for module in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__):
        members = vars(importlib.import_module(f"{PACKAGE}.{module.name}"))
        for name, value in members.items():
            own = inspect.isfunction(value) and value.__module__ == f"{PACKAGE}.{module.name}"
            if own and (takes_bucket(value) or makes_hook(value)):
                found.add(name)
    return sorted(found)


def takes_bucket(function: object) -> bool:
    """``hook(state, bucket)``."""
    names = list(inspect.signature(function).parameters)  # type: ignore[arg-type]
    return len(names) >= 2 and names[1] == "bucket" and "hook" in function.__name__


def makes_hook(function: object) -> bool:
    """Annotated to return a callable over a bucket."""
    return "GradBucket" in str(inspect.signature(function).return_annotation)  # type: ignore[arg-type]

"""The case: its file, the objects that it names, and the tensors that follow from its seed."""

from __future__ import annotations

import ctypes
import importlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

from oracle_torch import torch

DEFAULTS: dict[str, Any] = {
    "world": 2,
    "steps": 3,
    "seed": 1,
    "mode": "reducer",
    "hook": None,
    "hook_kwargs": {},
    "state": None,
    "serial": False,
    "gradient_as_bucket_view": False,
    "static_graph": False,
    "bucket_cap_mb": 25,
    "buckets": None,
    "optimizer": None,
    "init_scale": 1.0,
    "timeout_s": 120,
    "group_timeout_s": 60,
    "description": "",
}

# The modes that are DDP set-ups; oracle_ddp.py has what each of them sets up.
DDP_MODES = ("zero", "zero_interleaved", "optimizer_in_backward", "mixed_precision")


class OracleError(Exception):
    """The case file or the oracle is at fault: nothing was learned about PyTorch."""


def load_case(path: Path) -> dict[str, Any]:
    """Read a case file, fill in defaults and refuse unknown keys (a typo must not pass)."""
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise OracleError(f"{path}: {e}") from e
    unknown = set(raw) - set(DEFAULTS) - {"params"}
    if unknown:
        raise OracleError(f"{path}: unknown keys {sorted(unknown)}")
    case = {**DEFAULTS, **raw, "name": path.stem}
    if not case.get("params"):
        raise OracleError(f"{path}: no params")
    if case["mode"] not in ("reducer", "optimizer", *DDP_MODES):
        raise OracleError(f"{path}: unknown mode {case['mode']!r}")
    if case["buckets"] is None:
        case["buckets"] = [list(range(len(case["params"])))]
    if sorted(i for b in case["buckets"] for i in b) != list(range(len(case["params"]))):
        raise OracleError(f"{path}: buckets must hold every parameter index exactly once")
    return case


def resolve(spec: str) -> Any:
    """Turn ``module:attribute.path`` into the object."""
    module, _, attribute = spec.partition(":")
    if not attribute:
        raise OracleError(f"{spec!r} is not module:name")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def resolve_hook(spec: str, *extra: Any) -> Callable[..., Any]:
    """Resolve ``module:hook`` or the nested ``module:factory(module:hook)``.

    ``extra`` is appended to the outermost factory's arguments: ``_hook_then_optimizer`` and the
    ZeRO hooks are factories that take objects a case file cannot hold.
    """
    nested = re.fullmatch(r"([^()]+)\((.*)\)", spec)
    if nested is None:
        return resolve(spec)
    factory = resolve(nested.group(1))
    inner = [resolve_hook(nested.group(2))] if nested.group(2) else []
    return factory(*inner, *extra)


def seeded(shape: Sequence[int], dtype: str, *key: int) -> torch.Tensor:
    """A tensor that depends on the key alone, so that every rank can make every other's."""
    generator = torch.Generator()
    mixed = 0
    for k in key:
        mixed = (mixed * 1_000_003 + k + 1) % (2**62)
    generator.manual_seed(mixed)
    wanted = getattr(torch, dtype)
    made_as = wanted if wanted in (torch.float64, torch.complex64, torch.complex128) else None
    return torch.randn(list(shape), generator=generator, dtype=made_as).to(wanted)


def initial_params(case: dict[str, Any]) -> list[torch.nn.Parameter]:
    """The parameters, equal on all ranks as they are in a trainer."""
    return [
        torch.nn.Parameter(
            seeded(p["shape"], p.get("dtype", "float32"), case["seed"], 999_983, i)
            * case["init_scale"]
        )
        for i, p in enumerate(case["params"])
    ]


def gradients(case: dict[str, Any], rank: int, step: int) -> list[torch.Tensor]:
    """The gradients that one rank contributes in one step."""
    return [
        seeded(p["shape"], p.get("dtype", "float32"), case["seed"], rank, step, i)
        for i, p in enumerate(case["params"])
    ]


def raw_bytes(tensors: Sequence[torch.Tensor]) -> bytes:
    """Concatenate the row-major bytes. ctypes, because numpy knows no bfloat16."""
    out = []
    for t in tensors:
        c = t.detach().contiguous()
        out.append(ctypes.string_at(c.data_ptr(), c.numel() * c.element_size()))
    return b"".join(out)

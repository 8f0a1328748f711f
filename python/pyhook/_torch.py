"""Finds out whether torch can be used, for all packages that need it.

Each imports this before ``torch``, so that a missing or incomplete torch is one clear ImportError
that says what to do.
"""

from __future__ import annotations

import sys

from ._loading import shadow

# isort: split
try:
    import torch
    import torch.distributed as dist
except Exception as error:
    _shadows = shadow.behind(error)
    if _shadows:
        raise shadow.error(_shadows) from error
    if not isinstance(error, ImportError):
        raise
    if error.name is not None and error.name.split(".")[0] != "torch":
        raise  # torch is there; something that it needs is not
    raise ImportError(
        f"pyhook needs PyTorch, and {sys.executable} cannot import torch ({error}).\n"
        "hint: `pip install torch` into this interpreter, or choose another one "
        "(PYHOOK_PYTHON, VIRTUAL_ENV, CONDA_PREFIX).",
        name="torch",
    ) from error

shadow.refuse("numpy")  # which torch may come to only in the middle of training

if not dist.is_available():
    raise ImportError(
        f"torch {torch.__version__} was built without torch.distributed, so it has no "
        "GradBucket and no process groups.\nhint: install a build with USE_DISTRIBUTED=1 "
        "(every build on pypi.org has it).",
        name="torch.distributed",
    )


def install_legacy_names() -> None:
    """Give ``torch.distributed`` the names that hooks of torch <= 1.9 mention.

    Hooks of torch 1.7 and 1.8 annotate ``bucket: dist._GradBucket``, which is evaluated when the
    hook's module is imported.
    """
    if not hasattr(dist, "_GradBucket"):
        dist._GradBucket = dist.GradBucket

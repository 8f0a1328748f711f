"""Recording what goes into a hook and what comes out of it. ``recorder`` says how."""

from .. import _torch  # noqa: F401  (first: a clear error when torch is missing)

"""How process groups end after a step that failed, and are made anew in the same processes."""

from .. import _torch  # noqa: F401  (first: a clear error when torch is missing)

"""Saving and restoring the state of a hook. ``file`` describes the format."""

from .. import _torch  # noqa: F401  (first: a clear error when torch is missing)

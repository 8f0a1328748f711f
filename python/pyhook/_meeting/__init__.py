"""How the ranks of a job find each other and join a process group."""

from .. import _torch  # noqa: F401  (first: a clear error when torch is missing)

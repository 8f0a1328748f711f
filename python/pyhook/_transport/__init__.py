"""A trainer's own transport as torch.distributed's default process group."""

from .. import _torch  # noqa: F401  (first: a clear error when torch is missing)

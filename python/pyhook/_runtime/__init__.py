"""What a hook call needs: buckets, results, ordered futures. The Go side calls it by ``bridge``."""

from .. import _torch  # noqa: F401  (first: a clear error when torch is missing)

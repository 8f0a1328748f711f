"""What the code that runs on this thread is a part of."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Callable, Optional

if TYPE_CHECKING:
    from .chain import Chain
    from .issued import Issues


class _Scope(threading.local):
    """Of each thread.

    Attributes:
        chain: the Chain whose hook or callback runs.
        issues: notes the collectives of the hook call that runs.
        tracer: gets each real future that the hook that runs takes.
        nccl_futures: the hook or callback that runs asked for NCCL's forms of futures.
        giving_up: futures are completed with GivenUp: callbacks are not run.
    """

    chain: Optional[Chain] = None
    issues: Optional[Issues] = None
    tracer: Optional[Callable[[Any], None]] = None
    nccl_futures = False
    giving_up = False


scope = _Scope()

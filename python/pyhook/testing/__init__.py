"""Unit tests for DDP communication hooks, without a DDP job.

    from pyhook import testing

    def test_my_hook():
        bucket = testing.bucket([torch.ones(2, 3), torch.zeros(4)])
        result = testing.run(my_hook, None, bucket)
        assert result.shape == (10,)

    def test_my_hook_on_two_ranks():
        gradients = [[torch.ones(2, 3)], [torch.zeros(2, 3)]]
        results = testing.run_ranks("my.hooks:my_hook", gradients, steps=3)
        testing.assert_mean(results, gradients)

PyTorch gives hook authors nothing for this: GradBucket has no constructor.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional, Union

from .. import _torch  # noqa: F401  (first: a clear error when torch is missing)

# isort: split
import torch
import torch.distributed as dist

from .._errors import GroupError, HookContractError, RankError
from .._loading.load import check_hook
from .._loading.names import hook_name
from .._meeting.join import destroy, init_process_group
from .._runtime import patches
from .._runtime.bucket import Bucket, new_bucket
from .._runtime.bucket_layout import BucketLayout
from .._runtime.chain import Chain
from .._runtime.contract import require_future
from .._runtime.grad_mode import GradOff
from .._runtime.nccl_futures import NCCLForms
from .._runtime.result import parse_value

__all__ = ["RankError", "assert_mean", "bucket", "process_group", "run", "run_ranks", "split"]

Results = list[list[torch.Tensor]]
"""Indexed by rank, then by step."""


def bucket(
    gradients: Sequence[torch.Tensor],
    *,
    index: int = 0,
    count: int = 1,
    parameters: Optional[Sequence[torch.Tensor]] = None,
) -> Bucket:
    """Make a bucket that holds copies of ``gradients``, packed as DDP packs them.

    Args:
        gradients: of one dtype and device, of any shapes; copied.
        index, count: position among the buckets of a step. ``is_last()`` is true by default.
        parameters: the model's, if the hook reads or writes their values. Default: placeholders
            of the right shape (values NaN, not writable).
    """
    if not gradients:
        raise ValueError("a bucket holds at least one gradient")
    kinds = {(gradient.dtype, gradient.device) for gradient in gradients}
    if len(kinds) > 1:
        raise ValueError(f"a bucket has one dtype and one device, not {sorted(map(str, kinds))}")
    flat = torch.cat([gradient.detach().reshape(-1) for gradient in gradients])
    lengths = [gradient.numel() for gradient in gradients]
    offsets = [sum(lengths[:i]) for i in range(len(lengths))]
    sizes = [tuple(gradient.shape) for gradient in gradients]
    return new_bucket(BucketLayout(flat, index, count, offsets, lengths, sizes, params=parameters))


@contextlib.contextmanager
def process_group() -> Iterator[Any]:
    """Make a real default process group (gloo, one rank, no network), and destroy it afterwards.

    A default group of one rank that is there already is used, and not destroyed.

    Raises:
        GroupError: ``already_initialized`` with more than one rank.
    """
    if dist.is_initialized():
        if dist.get_world_size() != 1:
            raise GroupError(
                "already_initialized",
                f"the default process group has {dist.get_world_size()} ranks, not one",
            )
        yield dist.group.WORLD
        return
    with _loopback():
        group = init_process_group("gloo", None, 0, 1, 60, store=dist.HashStore())
    try:
        yield group
    finally:
        destroy()


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Let gloo bind to lo: looking up this machine's name may be slow."""
    name = "GLOO_SOCKET_IFNAME"
    lo = any(interface == "lo" for _, interface in socket.if_nameindex())
    if name in os.environ or not lo:
        yield
        return
    os.environ[name] = "lo"
    try:
        yield
    finally:
        del os.environ[name]


def run(
    hook: Callable[..., Any],
    state: Any,
    bucket: Bucket,
    timeout: float = 60.0,
    *,
    nccl_futures: bool = False,
) -> torch.Tensor:
    """Call a hook as DDP does, hold it to the contract, and wait for its result.

    The call's ``then`` callbacks run on this thread, in order, when what they wait for is done.
    Where there is no default process group, the call has one of its own (``process_group``). For a
    state that holds the group, open it yourself around both. ``nccl_futures`` is for a hook that
    indexes the futures of collectives as NCCL gives them.

    Returns:
        The reduced gradients: flat, detached, of the bucket's length and dtype. It may be the
        buffer itself, if the hook wrote to that.

    Raises:
        HookContractError: the hook may not return what it returned (see the codes there), or its
            future is not done after ``timeout`` seconds.
        HookLoadError: the hook cannot be called with (state, bucket).
        Exception: the hook's own.
    """
    check_hook(hook)
    with contextlib.ExitStack() as stack:
        if not dist.is_initialized():
            stack.enter_context(process_group())
        stack.callback(_detach, bucket._layout)
        patches.install()
        shown = NCCLForms(hook) if nccl_futures else hook
        chain = Chain(shown, keep_tracebacks=True)
        end = time.monotonic() + timeout
        with GradOff():
            future = require_future(chain(state, bucket))
        _finish(chain, future, end)
        if not _done_before(end, future):
            raise HookContractError(
                "result_timeout",
                f"the future that {hook_name(hook)} returned was not done after {timeout:g} s",
                "does something complete it on every path (set_result or set_exception)?",
            )
        # wait and not value: on CUDA it makes this stream wait for the result.
        result = parse_value(torch._C.Future.wait(future), bucket._layout)
    wanted = bucket._layout.tensor.dtype
    return result if result.dtype == wanted else result.to(wanted)


def _finish(chain: Chain, future: Any, end: float) -> None:
    """Run the call's callbacks on this thread, in order, as the Reducer does."""
    more = True
    while more:
        pending = chain.unfinished()
        if pending is not None and not _done_before(end, pending):
            return
        try:
            more = chain.advance()
        except HookContractError:
            # The future's own error says more.
            if torch._C.Future.done(future):
                torch._C.Future.wait(future)
            raise


def _done_before(end: float, future: Any) -> bool:
    done = threading.Event()
    torch._C.Future.add_done_callback(future, lambda _: done.set())
    return done.wait(max(0.0, end - time.monotonic()))


def _detach(layout: BucketLayout) -> None:
    """Undo it if the hook made the buffer require grad."""
    if layout.tensor.requires_grad:
        layout.tensor.detach_()


def split(result: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return views of a flat result, shaped as the gradients ``like``."""
    parts = result.split([gradient.numel() for gradient in like])
    return [part.view(gradient.shape) for part, gradient in zip(parts, like)]


def run_ranks(
    hook: Union[str, Callable[..., Any]],
    gradients_by_rank: Sequence[Sequence[torch.Tensor]],
    state: Any = None,
    *,
    state_kwargs: Optional[dict[str, Any]] = None,
    steps: int = 1,
    buckets: int = 1,
    timeout: float = 120.0,
    nccl_futures: bool = False,
) -> Results:
    """Run a hook on real ranks: one process each, joined by gloo on this machine.

    Each step starts from the same gradients, in the same memory, with the state that the step
    before left. Buckets of a step are run one after the other.

    Args:
        hook: a spec as in ``pyhook.load_hook`` (``"my.hooks:hook"``,
            ``"fp16_wrapper(powersgd)"``), or a function that can be imported by name; a process
            cannot be sent lambdas and inner functions.
        gradients_by_rank: the gradients of each rank; there are as many ranks.
        state: None; a spec (``"powersgd"``) or a class or function, which each rank calls with
            ``state_kwargs`` and its own process group as ``process_group``; or any other value
            that can be pickled.
        steps: the number of steps.
        buckets: the number of buckets to cut the gradients into, in order.
        timeout: seconds for all steps, from when the processes have started; then they are killed,
            and the error shows where each was.
        nccl_futures: give the hook NCCL's forms of futures, as ``HookConfig.Futures`` does.

    Returns:
        ``results[rank][step]``: flat, the buckets one after the other.

    Raises:
        RankError: with the traceback of the rank that failed first.

    A script that calls this needs ``if __name__ == "__main__":``, as multiprocessing's spawn does.
    """
    from . import _ranks

    if not isinstance(hook, str):  # a spec is loaded by each rank
        check_hook(hook)
    return _ranks.run(
        hook,
        gradients_by_rank,
        state=state,
        state_kwargs=dict(state_kwargs or {}),
        steps=steps,
        buckets=buckets,
        timeout=timeout,
        nccl_futures=nccl_futures,
    )


def assert_mean(
    results: Results,
    gradients_by_rank: Sequence[Sequence[torch.Tensor]],
    *,
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> None:
    """Check that every rank got the exact mean of the gradients at every step.

    Args:
        results: of ``run_ranks``; for ``run``, ``[[result]]``.
        gradients_by_rank: as for ``run_ranks``.
        rtol, atol: an element may differ by ``atol + rtol * abs(mean)``. fp16 hooks need about
            rtol=1e-3.

    Raises:
        AssertionError: names the rank, step, element and both values.
    """
    wide = [
        torch.cat([gradient.detach().reshape(-1) for gradient in gradients]).to(torch.float64)
        for gradients in gradients_by_rank
    ]
    mean = torch.stack(wide).mean(0)
    for rank, by_step in enumerate(results):
        for step, result in enumerate(by_step):
            where = f"rank {rank}, step {step}"
            assert result.shape == mean.shape, (
                f"{where}: {tuple(result.shape)} elements, expected {tuple(mean.shape)}"
            )
            got = result.detach().to("cpu", torch.float64)
            excess = (got - mean).abs() - (atol + rtol * mean.abs())
            # `not (<=)`, so that NaN counts as off.
            off = torch.logical_not(excess <= 0)
            if bool(off.any()):
                first = int(off.nonzero()[0])
                raise AssertionError(
                    f"{where}: {int(off.sum())} of {mean.numel()} elements are not the mean; "
                    f"element {first} is {float(got[first]):.9g}, the mean {float(mean[first]):.9g}"
                )

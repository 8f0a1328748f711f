"""A hook that fails now and then."""

import torch
import torch.distributed as dist

calls = 0


def third_and_sixth(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Averages the gradients, but raises on the last rank in its calls 3 and 6, after it has spoiled its bucket."""
    global calls
    calls += 1
    buffer = bucket.buffer().div_(dist.get_world_size())
    if calls in (3, 6) and dist.get_rank() == dist.get_world_size() - 1:
        buffer.fill_(float("nan"))
        raise RuntimeError("no such luck")
    return dist.all_reduce(buffer, async_op=True).get_future().then(lambda done: done.value()[0])

"""A hook that kills its process once, as a fault in a native extension would."""

import os
import signal

import torch
import torch.distributed as dist

calls = 0  # of this process: one that was restarted counts anew


def dies_once(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Averages the gradients. The last rank's process dies in its fourth call."""
    global calls
    calls += 1
    if calls == 4 and dist.get_rank() == dist.get_world_size() - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    buffer = bucket.buffer().div_(dist.get_world_size())
    work = dist.all_reduce(buffer, async_op=True)
    return work.get_future().then(lambda done: done.value()[0])

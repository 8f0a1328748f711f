"""A hook with a state: whole steps are sent, and what is left is added to the next gradient."""

import torch
import torch.distributed as dist


class State:
    """Each rank has its own: what its bucket i has not sent yet is rest[i]."""

    def __init__(self, process_group, unit=1.0):
        self.process_group = process_group
        self.unit = unit
        self.rest = {}


def rounded(state: State, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Averages the gradients, each rounded to a multiple of state.unit."""
    gradient = bucket.buffer()
    gradient += state.rest.get(bucket.index(), 0)
    sent = torch.round(gradient / state.unit) * state.unit
    state.rest[bucket.index()] = gradient - sent
    work = dist.all_reduce(sent, group=state.process_group, async_op=True)
    size = dist.get_world_size(state.process_group)
    return work.get_future().then(lambda done: done.value()[0] / size)

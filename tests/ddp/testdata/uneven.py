"""Stock DDP with uneven inputs: torch.distributed.algorithms.Join."""

import stock
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


def train(grads_by_step, hook_name, cap):
    """Train in the join context; return each step's reduced gradients.

    Args:
        grads_by_step: of this rank; the ranks may have different numbers of steps.
        hook_name: none, allreduce, fp16 or powersgd.
        cap: of a bucket and of the first one, in bytes.
    """
    dist._DEFAULT_FIRST_BUCKET_BYTES = cap
    shapes = [list(g.shape) for g in grads_by_step[0]]
    module = stock.Model({"params": [{"shape": s, "dtype": "float32"} for s in shapes]})
    ddp = DistributedDataParallel(module, bucket_cap_mb=cap / 2**20)
    sizes = [[]]
    state, hook = stock.make_hook(hook_name, sizes)
    if hook is not None:
        ddp.register_comm_hook(state, hook)
    reduced = []
    with ddp.join():
        for grads in grads_by_step:
            stock.clear(module.values, False)
            ddp([[g] for g in grads]).backward()
            reduced.append([p.grad.clone() for p in module.values])
    return reduced

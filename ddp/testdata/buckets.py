"""PyTorch's own bucket assignment on random lists of tensors."""

import json
import random

import torch
import torch.distributed as dist

DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "uint8"]


def cases(count, seed):
    """Return random cases and what PyTorch makes of them, as JSON."""
    rng = random.Random(seed)
    return json.dumps([case(rng) for _ in range(count)])


def case(rng):
    """Return one case: items as (elements, dtype, device, sparse)."""
    dtypes = rng.sample(DTYPES, rng.randint(1, 4))
    devices = ["cpu", "meta"][: rng.randint(1, 2)]
    items = [
        (rng.choice([0, 1, rng.randint(1, 400)]), rng.choice(dtypes), rng.choice(devices), rng.random() < 0.1)
        for _ in range(rng.randint(1, 40))
    ]
    limits = [rng.choice([0, 1, rng.randint(1, 2000)]) for _ in range(rng.randint(1, 4))]
    tensors = [torch.empty(n, dtype=getattr(torch, dtype), device=device) for n, dtype, device, _ in items]
    buckets, used = dist._compute_bucket_assignment_by_size(tensors, limits, [item[3] for item in items])
    return {"items": items, "limits": limits, "buckets": buckets, "used": used}

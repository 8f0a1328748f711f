"""What each rank of test_ordered.py runs: hooks over several buckets, with delays."""

import hashlib
import random
import time

import torch
import torch.distributed as dist

from pyhook._runtime import bridge, patches
from pyhook._runtime.bucket import new_bucket
from pyhook._runtime.chain import Chain

BUCKETS, STEPS = 5, 6


def chained(state, bucket):
    """Three collectives, each issued in the callback of the one before."""

    def again(scale):
        def callback(future):
            tensor = future.value()[0].mul_(scale)
            time.sleep(state.random() * 0.003)
            return dist.all_reduce(tensor, async_op=True).get_future().wait()

        return callback

    first = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return first.then(again(0.5)).then(again(0.25)).then(lambda future: future.value()[0])


def waits_in_its_body(state, bucket):
    tensor = bucket.buffer()
    futures = [dist.all_reduce(part, async_op=True).get_future() for part in tensor.chunk(2)]
    halved = [future.then(lambda f: f.value()[0].mul_(0.5)) for future in futures]
    torch.futures.wait_all(halved)
    done = dist.all_reduce(tensor, async_op=True).get_future().then(lambda f: f.value()[0])
    done.wait()
    return done


def collects(state, bucket):
    parts = [dist.all_reduce(part, async_op=True).get_future() for part in bucket.buffer().chunk(3)]

    def joined(future):
        for part in future.value():
            dist.all_reduce(part.value()[0])
        return bucket.buffer()

    return torch.futures.collect_all(parts).then(joined)


HOOKS = {"chained": chained, "waits": waits_in_its_body, "collects": collects}


def run(rank, world, path, name, mode, seed, results):
    """One rank. mode: serial, ordered. The digest of all results goes to results."""
    torch.set_num_threads(1)
    store = dist.FileStore(path, world)
    bridge.init_process_group("gloo", None, rank, world, 60, store)
    patches.install()
    delays = random.Random(seed * 100 + rank)
    hook, state = HOOKS.get(name), delays
    if hook is None:
        hook = bridge.load_hook(name)
        state = bridge.build_state(name, {"start_powerSGD_iter": 2})
    generator = torch.Generator().manual_seed(rank)
    sizes = [(24, 16), (16,)]
    buffers = [torch.zeros(24 * 16 + 16) for _ in range(BUCKETS)]
    layouts = [
        bridge.BucketLayout(buffer, i, BUCKETS, [0, 24 * 16], [24 * 16, 16], sizes)
        for i, buffer in enumerate(buffers)
    ]
    digest = hashlib.sha256()
    for _ in range(STEPS):
        for buffer in buffers:
            buffer.copy_(torch.randn(buffer.numel(), generator=generator))
        futures, chains = [], []
        for layout in layouts:
            time.sleep(delays.random() * 0.004)
            if mode == "serial":
                futures.append(hook(state, new_bucket(layout)))
                futures[-1].wait()
                continue
            chain = Chain(hook)
            futures.append(chain(state, new_bucket(layout)))
            chains = [c for c in chains if c.advance()] + [chain]
        while chains:
            chains = [c for c in chains if c.advance()]
        for future in futures:
            digest.update(future.value().numpy().tobytes())
    dist.barrier()
    results.put((rank, digest.hexdigest()))

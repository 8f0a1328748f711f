"""A hook with a connection that only the thread may use on which it was made: at import."""

import sqlite3

import torch.distributed as dist

CONNECTION = sqlite3.connect(":memory:")
CONNECTION.execute("create table calls (bucket)")


def logged(state, bucket):
    CONNECTION.execute("insert into calls values (?)", (bucket.index(),))
    work = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True)
    return work.get_future().then(lambda f: f.value()[0])

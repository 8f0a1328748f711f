"""Hooks that tests run: good, odd and broken ones."""

import functools
import threading

import torch


def done(value):
    future = torch.futures.Future()
    future.set_result(value)
    return future


def identity(state, bucket):
    return done(bucket.buffer())


def doubled(state, bucket):
    return done(bucket.buffer() * 2)


def later(state, bucket):
    future = torch.futures.Future()
    threading.Timer(0.02, lambda: future.set_result(bucket.buffer())).start()
    return future


def raises(state, bucket):
    raise ValueError("boom in the hook")

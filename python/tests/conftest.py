"""Real torch, always: without it the suite fails here and skips nothing."""

import random
import socket

import pytest
import torch

from pyhook import testing


@pytest.fixture
def group():
    with testing.process_group() as group:
        yield group


@pytest.fixture
def port():
    """A free port for a rank 0. The kernel gives those from 32768 on to any connection, also
    between this and rank 0's bind."""
    while True:
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", random.randrange(10000, 32768)))
            except OSError:
                continue
            return listener.getsockname()[1]


@pytest.fixture
def gradients():
    torch.manual_seed(0)
    return [torch.randn(8, 6), torch.randn(6), torch.randn(())]

"""Real torch, always: without it the suite fails here and skips nothing."""

import pytest
import torch

from pyhook import testing


@pytest.fixture
def group():
    with testing.process_group() as group:
        yield group


@pytest.fixture
def gradients():
    torch.manual_seed(0)
    return [torch.randn(8, 6), torch.randn(6), torch.randn(())]

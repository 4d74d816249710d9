"""Fixtures that all tests share."""

import zlib

import pytest
import torch


@pytest.fixture
def generator(request):
    """Randomness seeded by the test's own name, so that no clock decides a result."""
    return torch.Generator().manual_seed(zlib.crc32(request.node.name.encode()))

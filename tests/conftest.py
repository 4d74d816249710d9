"""Fixtures that all tests share."""

import zlib

import pytest
import torch


def pytest_collection_modifyitems(items):
    """The slow ones first, so that none is left for one process in the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def generator(request):
    """Randomness seeded by the test's own name, so that no clock decides a result."""
    return torch.Generator().manual_seed(zlib.crc32(request.node.name.encode()))


@pytest.fixture
def compiler():
    """`torch.compile` with nothing left of other tests, which would count against its limits."""
    torch.compiler.reset()
    yield torch.compile
    torch.compiler.reset()

"""Local attention, and the published sparse patterns: linear or sub-quadratic, and causal.

Each form says in `visible` exactly who sees whom. All are cut into dense pieces without an L × L
mask (`plan`), which run on torch's flash kernel on the CPU and on plain torch elsewhere.
"""

from __future__ import annotations

from pentti.nn.local.base import SparseAttention
from pentti.nn.local.bigbird import BigBirdAttention
from pentti.nn.local.cache import KeyValueCache
from pentti.nn.local.dense import Attention
from pentti.nn.local.fixed import FixedAttention
from pentti.nn.local.longformer import LongformerAttention
from pentti.nn.local.strided import StridedAttention
from pentti.nn.local.window import SlidingWindowAttention

__all__ = [
    "Attention",
    "BigBirdAttention",
    "FixedAttention",
    "KeyValueCache",
    "LongformerAttention",
    "SlidingWindowAttention",
    "SparseAttention",
    "StridedAttention",
]

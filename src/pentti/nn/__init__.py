"""PyTorch layers: a memory with learned hard locations, local attention, and models of both."""

from pentti.nn import local
from pentti.nn.annealing import AnnealedTopK
from pentti.nn.block import TransformerBlock
from pentti.nn.config import PenttiConfig
from pentti.nn.evidence import crowding
from pentti.nn.feed_forward import SwiGLU
from pentti.nn.fusion import FusionLayer
from pentti.nn.groups import parameter_groups
from pentti.nn.hybrid import HybridSparseAttention
from pentti.nn.linear_attention import LinearAttention, LinearState
from pentti.nn.memory_state import MemoryState
from pentti.nn.model_memory import ModelMemory
from pentti.nn.retrofit import AddedMemory, GatedMemory, add_memory, load_memory
from pentti.nn.rowwise import RowwiseAdagrad
from pentti.nn.sdm import MemoryOutput, SDMLayer, implied_beta
from pentti.nn.sequence import SequenceMemory, SequenceOutput
from pentti.nn.sequence_config import SequenceConfig
from pentti.nn.transformer import (
    EvidenceOutput,
    ParameterCount,
    PenttiTransformer,
    TransformerOutput,
)
from pentti.nn.utilisation import Utilisation

__all__ = [
    "AddedMemory",
    "AnnealedTopK",
    "EvidenceOutput",
    "FusionLayer",
    "GatedMemory",
    "HybridSparseAttention",
    "LinearAttention",
    "LinearState",
    "MemoryOutput",
    "MemoryState",
    "ModelMemory",
    "ParameterCount",
    "PenttiConfig",
    "PenttiTransformer",
    "RowwiseAdagrad",
    "SDMLayer",
    "SequenceConfig",
    "SequenceMemory",
    "SequenceOutput",
    "SwiGLU",
    "TransformerBlock",
    "TransformerOutput",
    "Utilisation",
    "add_memory",
    "crowding",
    "implied_beta",
    "load_memory",
    "local",
    "parameter_groups",
]

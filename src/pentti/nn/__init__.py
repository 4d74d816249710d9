"""PyTorch layers: a memory with learned hard locations, local attention, and models of both."""

from pentti.nn.annealing import AnnealedTopK
from pentti.nn.groups import parameter_groups
from pentti.nn.rowwise import RowwiseAdagrad
from pentti.nn.sdm import MemoryOutput, SDMLayer, implied_beta
from pentti.nn.utilisation import Utilisation

__all__ = [
    "AnnealedTopK",
    "MemoryOutput",
    "RowwiseAdagrad",
    "SDMLayer",
    "Utilisation",
    "implied_beta",
    "parameter_groups",
]

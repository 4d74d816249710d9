"""Memory layers and what they are timed beside, each written as its users would write it.

Every one can say, in float64 and by its own formula over all locations, what it must give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentti.theory import cosine_for

__all__ = ["LAYER", "PEER_LAYERS", "Expected", "Layer", "LayerSize", "cosines", "read"]

_BLOCK = 1 << 13  # addresses taken to float64 at a time
_SHARE = 0.01  # of the locations that a threshold activates
_N_ATTENTION_HEADS = 8


@dataclass(frozen=True)
class LayerSize:
    """A memory layer.

    Attributes:
        dim: Width of a token and of a row of the contents.
        n_locations: Number of hard locations, a square.
        top_k: How many of them each head reads.
        n_heads: Number of heads, where a layer has heads.
    """

    dim: int
    n_locations: int
    top_k: int
    n_heads: int

    @property
    def side(self) -> int:
        return math.isqrt(self.n_locations)

    @property
    def title(self) -> str:
        return f"{self.n_locations:,} locations"

    def facts(self) -> dict[str, int]:
        """What a line says of the size."""
        return {
            "dim": self.dim,
            "n_locations": self.n_locations,
            "top_k": self.top_k,
            "n_heads": self.n_heads,
        }


LAYER = LayerSize(dim=512, n_locations=99_856, top_k=32, n_heads=4)


class Expected(NamedTuple):
    """What must come out, float64.

    Attributes:
        output: For each token, as a function of the tokens and of `rows`.
        locations: Which rows of the contents each token reads; None without contents.
        rows: Those rows, a leaf of the graph.
    """

    output: Tensor
    locations: Tensor | None = None
    rows: Tensor | None = None


class Layer(Protocol):
    """One way to map tokens (B, D) to tokens (B, D).

    Attributes:
        module: What must be installed.
        most_tokens: As many tokens at a time as take sensible time.
        only_trains: Whether it differs from another one in its gradients only.
        network: Has the parameters.
        contents: The table that it reads; None without one.
    """

    module: str
    most_tokens: int
    only_trains: bool

    @property
    def network(self) -> nn.Module: ...

    @property
    def contents(self) -> Tensor | None: ...

    def __init__(self, size: LayerSize, device: str) -> None: ...

    @staticmethod
    def needs_bytes(size: LayerSize, n_tokens: int, trains: bool) -> int: ...

    def __call__(self, x_BD: Tensor) -> Tensor: ...

    def expected(self, x_BD: Tensor) -> Expected: ...


def read(contents_MD: Tensor, locations_BK: Tensor, weights_BK: Tensor) -> Expected:
    """Weighted sums of rows, in float64.

    Args:
        contents_MD: The table.
        locations_BK: Which rows.
        weights_BK: And how much of each, float64.
    """
    rows = contents_MD.detach()[locations_BK].double().requires_grad_()
    return Expected((weights_BK[..., None] * rows).sum(1), locations_BK, rows)


class ProductKeyMemory:
    """`product_key_memory.PKM` with 128 components a half key, the width that it asks for."""

    module = "product_key_memory"
    most_tokens = 1 << 20
    only_trains = False
    half_width = 128

    def __init__(self, size: LayerSize, device: str) -> None:
        from product_key_memory import PKM

        self.network = PKM(
            dim=size.dim,
            heads=size.n_heads,
            num_keys=size.side,
            topk=size.top_k,
            dim_head=self.half_width,
        ).to(device)
        self.contents: Tensor | None = self.network.values.weight
        self.size = size

    @staticmethod
    def needs_bytes(size: LayerSize, n_tokens: int, trains: bool) -> int:
        grid = n_tokens * size.n_heads * size.top_k**2 * 40
        return size.n_locations * size.dim * (8 if trains else 4) + grid

    def __call__(self, x_BD: Tensor) -> Tensor:
        output: Tensor = self.network(x_BD[None])[0]
        return output

    def expected(self, x_BD: Tensor) -> Expected:
        """Lample et al. 2019: the best sums of two dot products, softmax, weighted sum."""
        net, (n_tokens, _) = self.network, x_BD.shape
        queries = (x_BD @ net.to_queries.weight.detach().double().T).view(
            n_tokens, 2, self.size.n_heads, -1
        )
        scale, shift = (part.detach().double() for part in (net.norm.weight, net.norm.bias))
        queries = functional.layer_norm(queries, queries.shape[-1:], scale, shift)
        dots = torch.einsum("bphe,hnpe->bhpn", queries, net.keys.detach().double())
        scores = (dots[:, :, 0, :, None] + dots[:, :, 1, None, :]).flatten(2)
        best, locations = scores.topk(self.size.top_k)
        assert self.contents is not None
        return read(self.contents, locations.flatten(1), best.softmax(-1).flatten(1))


class NarrowProductKeyMemory(ProductKeyMemory):
    """The same with 64 components a half key: queries as wide as pentti's."""

    half_width = 64


class SparseProductKeyMemory(ProductKeyMemory):
    """The same with an attribute of its table set, which it has no argument for."""

    only_trains = True

    def __init__(self, size: LayerSize, device: str) -> None:
        super().__init__(size, device)
        self.network.values.sparse = True


class Cosine(nn.Module):
    """Addresses and contents; the weights over the active set are proportional to the cosine."""

    def __init__(self, size: LayerSize) -> None:
        super().__init__()
        self.addresses = nn.Parameter(torch.randn(size.n_locations, size.dim))
        self.contents = nn.Parameter(torch.randn(size.n_locations, size.dim) / size.dim**0.5)
        self.threshold = cosine_for(size.dim, _SHARE)

    def forward(self, x_BD: Tensor) -> Tensor:
        return self.blend(functional.cosine_similarity(x_BD[:, None], self.addresses, dim=-1))

    def blend(self, similarity_BM: Tensor) -> Tensor:
        active = similarity_BM * (similarity_BM > self.threshold)
        return active / active.sum(-1, keepdim=True).clamp_min(1e-6) @ self.contents


class NaiveCosine:
    """Every token against every address by broadcasting, as commonly written."""

    module = "torch"
    most_tokens = 1 << 20
    only_trains = False
    kind: type[Cosine] = Cosine

    def __init__(self, size: LayerSize, device: str) -> None:
        self.network: Any = self.kind(size).to(device)
        self.contents: Tensor | None = self.network.contents

    @staticmethod
    def needs_bytes(size: LayerSize, n_tokens: int, trains: bool) -> int:
        return n_tokens * size.n_locations * size.dim * 4 * (6 if trains else 3)

    def __call__(self, x_BD: Tensor) -> Tensor:
        output: Tensor = self.network(x_BD)
        return output

    def expected(self, x_BD: Tensor) -> Expected:
        similarity = cosines(x_BD, self.network.addresses)
        active = similarity.detach() > self.network.threshold
        widest = int(active.sum(-1).max())
        locations = torch.where(active, similarity.detach(), -2.0).topk(max(widest, 1)).indices
        kept = similarity.gather(1, locations) * active.gather(1, locations)
        weights = kept / kept.sum(-1, keepdim=True).clamp_min(1e-6)
        assert self.contents is not None
        return read(self.contents, locations, weights)


class GemmCosine(Cosine):
    """The same with a matrix product; unit addresses are kept while nothing learns."""

    def train(self, mode: bool = True) -> Any:
        self.unit = None if mode else functional.normalize(self.addresses.detach())
        return super().train(mode)

    def forward(self, x_BD: Tensor) -> Tensor:
        unit = functional.normalize(self.addresses) if self.unit is None else self.unit
        return self.blend(functional.normalize(x_BD) @ unit.T)


class GemmThreshold(NaiveCosine):
    """Cosines by a matrix product, a threshold that activates 1 %, a dense read."""

    most_tokens = 1024
    kind = GemmCosine

    @staticmethod
    def needs_bytes(size: LayerSize, n_tokens: int, trains: bool) -> int:
        return n_tokens * size.n_locations * 4 * (8 if trains else 4)


class TopCosine(Cosine):
    """All cosines without gradient, the winners' again with it, softmax, a sparse read."""

    beta = 10.0

    def __init__(self, size: LayerSize) -> None:
        super().__init__(size)
        self.top_k: int = size.top_k

    def train(self, mode: bool = True) -> Any:
        self.scale = None if mode else self._scale()
        return super().train(mode)

    def forward(self, x_BD: Tensor) -> Tensor:
        with torch.no_grad():
            scale = self._scale() if self.scale is None else self.scale
            best = (x_BD @ self.addresses.T).mul_(scale).topk(self.top_k).indices
        winners = functional.embedding(best, self.addresses)
        cosines = functional.cosine_similarity(x_BD[:, None], winners, dim=-1)
        weights = (self.beta * cosines).softmax(-1)
        output: Tensor = functional.embedding_bag(
            best, self.contents, per_sample_weights=weights, mode="sum"
        )
        return output

    @torch.no_grad()
    def _scale(self) -> Tensor:
        scale: Tensor = torch.linalg.vector_norm(self.addresses, dim=1).reciprocal()
        return scale


class GemmTopK(NaiveCosine):
    """Cosines by a matrix product, the best of them scored again, one head."""

    kind = TopCosine

    @staticmethod
    def needs_bytes(size: LayerSize, n_tokens: int, trains: bool) -> int:
        table = size.n_locations * size.dim * (8 if trains else 0)
        return n_tokens * size.n_locations * 4 * 2 + table

    def expected(self, x_BD: Tensor) -> Expected:
        best, locations = cosines(x_BD, self.network.addresses).topk(self.network.top_k)
        assert self.contents is not None
        return read(self.contents, locations, (TopCosine.beta * best).softmax(-1))


class Attention:
    """Dense causal attention with its four projections, over the tokens as one sequence."""

    module = "torch"
    most_tokens = 1 << 20
    only_trains = False
    contents: Tensor | None = None

    def __init__(self, size: LayerSize, device: str) -> None:
        self.ins, self.out = nn.Linear(size.dim, 3 * size.dim), nn.Linear(size.dim, size.dim)
        self.network = nn.ModuleList([self.ins, self.out]).to(device)

    @staticmethod
    def needs_bytes(size: LayerSize, n_tokens: int, trains: bool) -> int:
        return n_tokens * size.dim * 4 * (24 if trains else 8)

    def __call__(self, x_BD: Tensor) -> Tensor:
        q, k, v = self._heads(self.ins(x_BD))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        output: Tensor = self.out(mixed[0].transpose(0, 1).flatten(1))
        return output

    def expected(self, x_BD: Tensor) -> Expected:
        """The first tokens of a sequence see nothing of what follows."""
        ins, out = ((one.weight.detach().double(), one.bias.detach().double())
                    for one in (self.ins, self.out))  # fmt: skip
        q, k, v = self._heads(functional.linear(x_BD, *ins))
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        later = torch.ones_like(scores, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
        return Expected(functional.linear(mixed[0].transpose(0, 1).flatten(1), *out))

    @staticmethod
    def _heads(x: Tensor) -> tuple[Tensor, ...]:
        return x.view(1, len(x), 3, _N_ATTENTION_HEADS, -1).transpose(1, 3).unbind(2)


def cosines(x_BD: Tensor, addresses_MD: Tensor) -> Tensor:
    """All cosines, in float64.

    Args:
        x_BD: Tokens, float64.
        addresses_MD: Hard addresses.
    """
    x = functional.normalize(x_BD)
    blocks = addresses_MD.detach().split(_BLOCK)
    return torch.cat([x @ functional.normalize(block.double()).T for block in blocks], dim=1)


PEER_LAYERS: dict[str, type[Layer]] = {
    "product-key-memory": ProductKeyMemory,
    "product-key-memory, 64 wide": NarrowProductKeyMemory,
    "product-key-memory, sparse": SparseProductKeyMemory,
    "GEMM + top-k": GemmTopK,
    "GEMM + threshold": GemmThreshold,
    "naive cosine": NaiveCosine,
    "attention": Attention,
}

"""pentti's memory layers, and the formula that they must equal."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.layer_peers import PEER_LAYERS, Expected, Layer, LayerSize, cosines, read
from pentti.decoders import CosineCap
from pentti.nn import SDMLayer

__all__ = ["LAYERS", "Pentti", "PenttiCosine", "PenttiSparse"]


class Pentti:
    """`SDMLayer` over product keys, with dense gradients."""

    module = "pentti"
    most_tokens = 1 << 20
    only_trains = False
    sparse_gradients = False

    def __init__(self, size: LayerSize, device: str) -> None:
        self.size = size
        self.network: nn.Module = SDMLayer(
            size.dim,
            n_locations=size.n_locations,
            n_heads=size.n_heads,
            top_k=size.top_k,
            sparse_gradients=self.sparse_gradients,
        ).to(device)
        self.contents: Tensor | None = self.network.contents

    @staticmethod
    def needs_bytes(size: LayerSize, n_tokens: int, trains: bool) -> int:
        rows = n_tokens * size.n_heads * size.top_k
        return size.n_locations * size.dim * (8 if trains else 0) + rows * 100

    def __call__(self, x_BD: Tensor) -> Tensor:
        output: Tensor = self.network(x_BD).output
        return output

    def expected(self, x_BD: Tensor) -> Expected:
        """The best of all M mean cosines in each head, softmax, weighted sum."""
        state = {name: value.double() for name, value in self.network.state_dict().items()
                 if name in ("query.weight", "decoder.codebooks", "weigh.log_beta")}  # fmt: skip
        query = (x_BD @ state["query.weight"].T).view(len(x_BD), self.size.n_heads, 2, -1)
        books = functional.normalize(state["decoder.codebooks"], dim=-1)
        halves = functional.normalize(query, dim=-1)
        each = torch.einsum("bhpe,phne->pbhn", halves, books)
        similarity = (each[0, ..., :, None] + each[1, ..., None, :]).flatten(2) / 2
        best, locations = similarity.topk(self.size.top_k)
        weights = (state["weigh.log_beta"].exp()[:, None] * best).softmax(-1)
        assert self.contents is not None
        return read(self.contents, locations.flatten(1), weights.flatten(1))


class PenttiSparse(Pentti):
    """The same with sparse gradients of the contents."""

    only_trains = True
    sparse_gradients = True


class PenttiCosine(Pentti):
    """`SDMLayer` over learned addresses that are all compared, one head."""

    def __init__(self, size: LayerSize, device: str) -> None:
        self.size = size
        decoder = CosineCap(size.dim, size.n_locations, top_k=size.top_k, learned=True)
        self.network = SDMLayer(size.dim, decoder).to(device)
        self.contents = self.network.contents

    @staticmethod
    def needs_bytes(size: LayerSize, n_tokens: int, trains: bool) -> int:
        rows = n_tokens * size.top_k
        return size.n_locations * size.dim * (16 if trains else 0) + rows * 100

    def expected(self, x_BD: Tensor) -> Expected:
        state = self.network.state_dict()
        query = x_BD @ state["query.weight"].double().T
        best, locations = cosines(query, state["decoder.addresses"][0]).topk(self.size.top_k)
        weights = (state["weigh.log_beta"].double().exp() * best).softmax(-1)
        assert self.contents is not None
        return read(self.contents, locations, weights)


LAYERS: dict[str, type[Layer]] = {
    "pentti": Pentti,
    "pentti, sparse gradients": PenttiSparse,
    "pentti CosineCap": PenttiCosine,
    **PEER_LAYERS,
}

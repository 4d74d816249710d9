"""The memory as a layer: learned hard locations and contents, an output and a meter."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pentti import checks
from pentti.decoders import ProductKeys
from pentti.decoders.real import RealDecoder
from pentti.kernels import ops
from pentti.nn.utilisation import Utilisation
from pentti.nn.weighting import WEIGHTINGS, Weighting
from pentti.tensors import check_type, check_vectors

__all__ = ["MemoryOutput", "SDMLayer", "implied_beta"]


_LEAST_BETA = 1.0  # below, the softmax hardly weighs and its β hardly learns


class MemoryOutput(NamedTuple):
    """What a memory gives for a tensor (…, D): `output` (…, D) and `meter`, int64 (…).

    The meter is the activation count: how many hard locations took part, over all heads.
    """

    output: Tensor
    meter: Tensor


class SDMLayer(nn.Module):
    """A sparse distributed memory whose hard locations and contents are learned.

    A linear map turns each token into an address (a query), the decoder finds the few nearest
    hard locations of each head among many, and the output is the sum of their contents, each
    weighed by its similarity. With product keys a call costs what the active locations cost, and
    the square root of their number: 32 of 99,856 for each of 4 heads unless told otherwise.

    The search has no gradient, but the scores of its winners have one, so that addresses, the map
    and the weights learn as the contents do. A token with NaN gives NaN for itself alone.

    Args:
        dim: Width of a token and of a location's contents, D.
        decoder: `ProductKeys` or `CosineCap` with `top_k`; None for learned product keys of the
            sizes below.
        n_locations: Number of hard locations, M, a square; 99,856 = 316² unless told otherwise.
        n_heads: Heads, each with hard addresses of its own for the same contents, H; 4 unless
            told otherwise.
        top_k: Most hard locations that a head activates, K; 32 unless told otherwise.
        weighting: How the active locations are weighed: "softmax" of β times similarity with a
            learned β for each head; "similarity", in proportion to it; "inhibition", similarity
            less that of the weakest winner, not normalised (Bricken et al. 2023).
        projected: Whether a linear map without bias makes the address; otherwise x is the address.
        sparse_gradients: Whether the contents' gradient holds touched rows only, for tables whose
            dense gradient does not fit. `torch.compile` leaves its graph for such a read.

    Raises:
        ArgumentError: if a size does not fit, the decoder is none for layers or has no `top_k`, or
            sizes are given beside a decoder.

    Examples:
        >>> layer = SDMLayer(64, n_locations=1024, n_heads=2, top_k=8)
        >>> output, meter = layer(torch.randn(3, 5, 64))
        >>> output.shape, meter.tolist()[0]
        (torch.Size([3, 5, 64]), [16, 16, 16, 16, 16])

    **Source:** Kanerva, *Sparse Distributed Memory* (1988); Lample et al. 2019, "Large memory
    layers with product keys" (arXiv 1907.05242); Bricken et al. 2023, "Sparse distributed memory is
    a continual learner" (ICLR).
    """

    _version = 1
    contents: nn.Parameter
    n_reads: Tensor

    def __init__(
        self,
        dim: int,
        decoder: RealDecoder | None = None,
        *,
        n_locations: int | None = None,
        n_heads: int | None = None,
        top_k: int | None = None,
        weighting: str = "softmax",
        projected: bool = True,
        sparse_gradients: bool = False,
    ) -> None:
        super().__init__()
        self.dim = checks.count("SDMLayer", "dim", dim)
        checks.one_of("SDMLayer", "weighting", weighting, WEIGHTINGS)
        projected = checks.flag("SDMLayer", "projected", projected)
        self.sparse_gradients = checks.flag("SDMLayer", "sparse_gradients", sparse_gradients)
        sizes = {"n_locations": n_locations, "n_heads": n_heads, "top_k": top_k}
        self.decoder = _decoder(self.dim, decoder, sizes)
        if not projected and self.decoder.dim != self.dim:
            got = checks.Words(f"{self.dim}, where the decoder's addresses have {self.decoder.dim}")
            checks.reject("SDMLayer", "dim", "be the width of an address if not projected", got)
        beta = max(implied_beta(self.decoder), _LEAST_BETA)
        with self.decoder.device:
            width = self.decoder.dim
            self.query = nn.Linear(self.dim, width, bias=False) if projected else nn.Identity()
            self.weigh = Weighting(weighting, self.decoder.n_heads, beta)
            self.contents = nn.Parameter(torch.empty(self.decoder.n_locations, self.dim))
            n_reads = torch.zeros(self.decoder.n_locations, dtype=torch.int64)
        self.register_buffer("n_reads", n_reads, persistent=False)
        self.reset_contents()

    @torch.no_grad()
    def reset_contents(self) -> None:
        """Draw new contents: normal, with variance 1 / D, and forget which ones were read.

        **Source:** Lample et al. 2019, section 4.
        """
        self.contents.normal_(std=1 / math.sqrt(self.dim))
        self.n_reads.zero_()

    def forward(self, x: Tensor) -> MemoryOutput:
        """Read the memory for each token.

        Args:
            x: Floating tensor of shape (…, D).

        Returns:
            The output, of the shape of `x`, and the meter.

        Raises:
            ArgumentError: if `x` is no floating tensor of that width on the layer's device, or
                has another type than the projection and there is no autocast to change it.
        """
        self._check(x)
        query = self.query(x)
        locations, similarity, active = self.decoder.nearest(query)
        weights, active = self.weigh(similarity, active, self.decoder.threshold is not None)
        if self.training:
            self._count(locations, active)
        n_active = locations.shape[-2] * locations.shape[-1]
        wide = torch.promote_types(self.contents.dtype, torch.float32)
        output = ops.read_rows(
            self.contents,
            locations.reshape(-1, n_active),
            weights.reshape(-1, n_active).to(wide),
            self.sparse_gradients,
        )
        return MemoryOutput(output.view(x.shape).to(query.dtype), active.sum((-2, -1)))

    def utilisation(self) -> Utilisation:
        """Which locations were read in training mode, since the last `reset_utilisation`.

        A padded token is read as any other.

        Returns:
            Shares, entropy and counts.
        """
        return Utilisation.of(self.n_reads)

    def reset_utilisation(self) -> None:
        """Start to count reads anew."""
        self.n_reads.zero_()

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"dim={self.dim}, sparse_gradients={self.sparse_gradients}"

    def _count(self, locations: Tensor, active: Tensor) -> None:
        self.n_reads.scatter_add_(0, locations.flatten(), active.flatten().to(torch.int64))

    def _check(self, x: Tensor) -> None:
        check_vectors("SDMLayer", "x", x, self.dim, self.contents.device)
        if isinstance(self.query, nn.Linear):
            check_type("SDMLayer", "x", x, self.query.weight.dtype, "projection")

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        found = metadata.get("version", 1)
        if found > self._version:
            name = prefix[:-1] or "state_dict"
            rest[-1].append(
                f"{name}: the state of an SDMLayer is of version {found}, newer than "
                f"{self._version}, which this pentti reads; install a newer one"
            )
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def implied_beta(decoder: RealDecoder) -> float:
    """The β of the softmax that comes nearest to how a decoder's activations overlap.

    Two addresses at a cosine c share a number of locations that falls off about as e^(βc); β is
    the least-squares slope of its logarithm from the activation threshold to 1. Where every
    location is active, or none, there is no slope and β is 0; a layer starts at 1 at least.

    Args:
        decoder: Of real addresses.

    Returns:
        β, per unit of cosine.

    **Source:** Bricken & Pehlevan 2021, "Attention approximates sparse distributed memory".
    """
    cosines = np.linspace(min(decoder.effective_threshold, 0.999), 1.0, 33)
    shares = np.log(np.maximum(decoder.overlap(cosines), np.finfo(float).tiny))
    return max(0.0, float(np.polyfit(cosines, shares, 1)[0]))


def _decoder(dim: int, decoder: RealDecoder | None, sizes: dict[str, int | None]) -> RealDecoder:
    if decoder is None:
        n_locations, n_heads, top_k = sizes.values()
        return ProductKeys(
            dim,
            99_856 if n_locations is None else n_locations,
            n_heads=4 if n_heads is None else n_heads,
            top_k=32 if top_k is None else top_k,
            learned=True,
        )
    if not isinstance(decoder, RealDecoder):
        checks.reject("SDMLayer", "decoder", "be a ProductKeys or a CosineCap", decoder)
    for name, given in sizes.items():
        if given is not None:
            checks.reject("SDMLayer", name, "be left out where a decoder is given", given)
    if decoder.top_k is None:
        got = checks.Words("none")
        checks.reject("SDMLayer", "decoder", "have a `top_k`: it caps the active locations", got)
    return decoder

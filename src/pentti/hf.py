"""Hugging Face models: which β their attention has, though none was ever named."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pentti import checks
from pentti.errors import ArgumentError

__all__ = ["HeadBeta", "effective_beta"]

_NAME = "pentti_observed"
_PAIRS = 4096  # of a query and a key, that are drawn from each layer of each batch


class HeadBeta(NamedTuple):
    """The inverse temperature of a head of attention, seen from outside.

    A head gives a key the weight exp(s), s = scale · |q| · |k| · cosine. So for each pair of a
    query and a key, β is scale · |q| · |k|.

    Attributes:
        layer: Number of the attention in the model, from 0.
        head: Number of the head, from 0.
        low: β that 5 % of the pairs are below.
        median: Its median.
        high: β that 95 % of the pairs are below.
        largest: Largest score s: the β of that pair is no less.
    """

    layer: int
    head: int
    low: float
    median: float
    high: float
    largest: float


def effective_beta(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], seed: int = 0
) -> Generator[int, None, list[HeadBeta]]:
    """β of every head of a Hugging Face model, on inputs of one's own.

    The model's own weights and results are left as they are.

    Args:
        model: Of *transformers*, with one of its exchangeable forms of attention.
        batches: What the model is called with, such as a tokenizer gives.
        seed: Of the pairs that are drawn.

    Returns:
        A generator of the number of batches that are done, which returns all heads, by layer.

    Raises:
        ArgumentError: if *transformers* is not installed, the model is none of its, it has no
            attention that can be exchanged, or there is no batch.

    **Source:** Bricken and Pehlevan, *Attention approximates Sparse Distributed Memory* (2021,
    arXiv 2111.05498), where β ties attention to Kanerva's memory (1988); they take `largest` for
    GPT-2.
    """
    pairs = _Pairs(seed)
    with _observed(model, pairs), torch.no_grad():
        done = 0
        for batch in batches:
            pairs.layer = 0
            model(**batch)
            done += 1
            yield done
    if not done:
        checks.reject("effective_beta", "batches", "hold one at least", [])
    if not pairs.betas:
        expected = "have attention that can be exchanged"
        got = checks.Words(f"a {type(model).__name__} without any")
        checks.reject("effective_beta", "model", expected, got)
    return list(pairs.heads())


class _Pairs:
    """What is noted of pairs of queries and keys, by layer."""

    def __init__(self, seed: int) -> None:
        self.layer = 0
        self.betas: dict[int, list[Tensor]] = {}  # each (H, pairs)
        self.largest: dict[int, Tensor] = {}  # (H,)
        self._drawn = torch.Generator().manual_seed(seed)

    def note(self, q_BHLE: Tensor, k_BHSE: Tensor, scale: float, seen: Tensor) -> None:
        """Note a layer of a batch; `seen` is bool (B, L, S)."""
        of_query = q_BHLE.float().norm(dim=-1).cpu()
        of_key = k_BHSE.float().norm(dim=-1).cpu()
        at = seen.cpu().nonzero()
        chosen = at[torch.randint(len(at), (_PAIRS,), generator=self._drawn)]
        row, query, key = chosen.unbind(1)
        beta = scale * of_query[row, :, query] * of_key[row, :, key]
        self.betas.setdefault(self.layer, []).append(beta.T)
        scores = scale * (q_BHLE.float() @ k_BHSE.float().mT)
        highest = scores.masked_fill(~seen[:, None], -math.inf).amax((0, 2, 3)).cpu()
        before = self.largest.get(self.layer, highest)
        self.largest[self.layer] = torch.maximum(before, highest)
        self.layer += 1

    def heads(self) -> Iterator[HeadBeta]:
        """All heads."""
        shares = torch.tensor([0.05, 0.5, 0.95])
        for layer, found in self.betas.items():
            quantiles = torch.cat(found, 1).quantile(shares, dim=1)
            for head, (low, median, high) in enumerate(quantiles.T.tolist()):
                yield HeadBeta(layer, head, low, median, high, self.largest[layer][head].item())


@contextmanager
def _observed(model: Any, pairs: _Pairs) -> Iterator[None]:
    """Let a model attend as before, under our eyes."""
    try:
        from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
        from transformers.integrations.sdpa_attention import sdpa_attention_forward
        from transformers.masking_utils import sdpa_mask
    except ModuleNotFoundError as error:
        raise ArgumentError(
            "effective_beta: `model` needs the package transformers; install it with: "
            "pip install 'pentti[hf]'"
        ) from error
    if not isinstance(model, PreTrainedModel):
        checks.reject("effective_beta", "model", "be one of transformers", type(model).__name__)

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **more: Any
    ) -> Any:
        groups = query.shape[1] // key.shape[1]  # heads that share a key
        keys = key.repeat_interleave(groups, dim=1)
        scale = more.get("scaling") or query.shape[-1] ** -0.5
        pairs.note(query, keys, scale, _seen(module, query, keys, attention_mask))
        return sdpa_attention_forward(module, query, key, value, attention_mask, **more)

    before = model.config._attn_implementation  # noqa: SLF001 transformers has no door to it
    AttentionInterface.register(_NAME, attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)  # else padding is seen
    try:
        model.set_attn_implementation(_NAME)
        yield
    finally:
        model.set_attn_implementation(before)


def _seen(module: Any, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Which query sees which key, bool (B, L, S)."""
    shape = len(query), query.shape[2], key.shape[2]
    if mask is not None:
        kept = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        seen = kept[:, 0, :, : shape[2]].expand(shape)
        is_token = seen.any(1)  # padding, which nothing sees, looks about all the same
        return seen & is_token[:, :, None] if shape[1] == shape[2] else seen
    if getattr(module, "is_causal", False) and shape[1] > 1:
        places = torch.arange(shape[2], device=query.device)
        return (places[shape[2] - shape[1] :, None] >= places).expand(shape)
    return query.new_ones(shape, dtype=torch.bool)

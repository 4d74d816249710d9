"""Hugging Face models: which β their attention has, though none was ever named."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pentti import checks
from pentti.errors import ArgumentError

__all__ = ["BetaRange", "HeadBeta", "effective_beta"]

_WHERE = "effective_beta"
_PAIRS = 4096  # of a query and a key, that are drawn from each layer of each batch
_FORMS = ("eager", "sdpa")
_LOOKING = RLock()  # one model is looked at at a time, for what is looked through is transformers'


class BetaRange(NamedTuple):
    """How the β of pairs of a query and a key are spread.

    Attributes:
        low: β that 5 % of the pairs are below.
        median: Its median.
        high: β that 95 % of the pairs are below.
    """

    low: float
    median: float
    high: float


class HeadBeta(NamedTuple):
    """The inverse temperature of a head of attention, seen from outside.

    A head gives a key the weight exp(s), s = scale · |q| · |k| · cosine. So for each pair of a
    query and a key, β is scale · |q| · |k|. But one vector more on all keys of a sequence (a bias
    of the keys, where positions do not turn it) changes |k| and no weight. So keys are measured
    from their mean in the sequence, where what attention does is the question.

    Attributes:
        layer: Number of the attention, in the order in which the model calls them, from 0.
        head: Number of the head, from 0.
        centred: β of keys less the mean of all keys of their sequence that are no padding.
        raw: β of keys as they are.
        largest: Largest scale · q · k, before any cap: the raw β of that pair is no less.
    """

    layer: int
    head: int
    centred: BetaRange
    raw: BetaRange
    largest: float


def effective_beta(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], seed: int = 0
) -> Generator[int, None, list[HeadBeta]]:
    """β of every head of a Hugging Face model, on inputs of one's own.

    The model attends as it always does, with caps, sinks and scales of its own, and nothing of it
    is changed. In training mode it is seen with its dropout: call its `eval` before. Only pairs
    where the query sees the key are counted.

    Args:
        model: Of *transformers* 5 or later, attending by "eager" or "sdpa".
        batches: What the model is called with, such as a tokenizer gives.
        seed: Of the pairs that are drawn, from 0 to 2⁶³ − 1.

    Returns:
        A generator of the number of batches that are done, which returns all heads, by layer.

    Raises:
        ArgumentError: if *transformers* is not installed or too old, the model is none of its or
            attends in another way, a batch is no mapping or all padding, there is no batch, or the
            seed is out of range.

    **Source:** Bricken and Pehlevan, *Attention approximates Sparse Distributed Memory* (2021,
    arXiv 2111.05498), where β ties attention to Kanerva's memory (1988); they take `largest` for
    GPT-2.
    """
    seed = checks.integer(_WHERE, "seed", seed, 0, 2**63 - 1)
    if isinstance(batches, Mapping | str | bytes | Tensor) or not isinstance(batches, Iterable):
        checks.reject(_WHERE, "batches", "be a list of batches", _a(batches))
    if not isinstance(model, _transformers().PreTrainedModel):
        checks.reject(_WHERE, "model", "be one of transformers", type(model).__name__)
    return _looked_at(model, batches, _Pairs(seed))


def _looked_at(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], pairs: _Pairs
) -> Generator[int, None, list[HeadBeta]]:
    done = 0
    for batch in batches:
        if not isinstance(batch, Mapping):
            checks.reject(_WHERE, "batches", "hold mappings of names to tensors", _a(batch))
        pairs.layer = 0
        with _looking_at(model, pairs), torch.no_grad():
            model(**batch)
        done += 1
        yield done
    if not done:
        checks.reject(_WHERE, "batches", "hold one at least", [])
    if not pairs.betas:
        got = checks.Words(f"a {type(model).__name__} without any")
        checks.reject(_WHERE, "model", "have attention that transformers dispatches", got)
    return list(pairs.heads())


class _Pairs:
    """What is noted of pairs of queries and keys, by layer."""

    def __init__(self, seed: int) -> None:
        self.layer = 0
        self.betas: dict[int, list[Tensor]] = {}  # each (pairs, 2, H): centred and raw
        self.largest: dict[int, Tensor] = {}  # (H,)
        self._drawn = torch.Generator().manual_seed(seed)

    def note(self, q_BHLE: Tensor, k_BHSE: Tensor, scale: float, seen: Tensor) -> None:
        """Note a layer of a batch; `seen` is bool (B, L, S)."""
        q, k = scale * q_BHLE.float(), k_BHSE.float()
        at = seen.flatten().nonzero()[:, 0].cpu()
        if not len(at):
            got = checks.Words("a batch of padding")
            checks.reject(_WHERE, "batches", "hold a token that is no padding each", got)
        drawn = at[torch.randint(len(at), (_PAIRS,), generator=self._drawn)]
        row, query, key = torch.unravel_index(drawn, seen.shape)
        of_query = q.norm(dim=-1).cpu()
        of_key = torch.stack([_centred(k, seen), k]).norm(dim=-1).cpu()  # (2, B, H, S)
        beta = of_query[row, :, query][:, None] * of_key[:, row, :, key]
        self.betas.setdefault(self.layer, []).append(beta)
        highest = (q @ k.mT).masked_fill(~seen[:, None], -math.inf).amax((0, 2, 3)).cpu()
        before = self.largest.get(self.layer, highest)
        self.largest[self.layer] = torch.maximum(before, highest)
        self.layer += 1

    def heads(self) -> Iterator[HeadBeta]:
        """All heads."""
        shares = torch.tensor([0.05, 0.5, 0.95])
        for layer, found in self.betas.items():
            quantiles = torch.cat(found).quantile(shares, dim=0).permute(2, 1, 0)
            for head, (centred, raw) in enumerate(quantiles.tolist()):
                largest = self.largest[layer][head].item()
                yield HeadBeta(layer, head, BetaRange(*centred), BetaRange(*raw), largest)


def _centred(k_BHSE: Tensor, seen: Tensor) -> Tensor:
    """Keys less the mean of those of their row that any query sees."""
    share = seen.any(1) / seen.any(1).sum(-1, keepdim=True).clamp(min=1)
    return k_BHSE - torch.einsum("bhse,bs->bhe", k_BHSE, share)[:, :, None]


@contextmanager
def _looking_at(model: nn.Module, pairs: _Pairs) -> Iterator[None]:
    """Note what goes into the attention of a model, which transformers looks up at each call."""
    interface, own = _transformers().AttentionInterface, set(model.modules())
    with _LOOKING:
        look_up = interface.get_interface

        def get_interface(self: Any, form: str, default: Callable[..., Any]) -> Callable[..., Any]:
            attend = look_up(self, form, default)

            def noted(
                module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any,
                **more: Any,
            ) -> Any:  # fmt: skip
                if module in own:
                    _note(pairs, form, module, query, key, attention_mask, more)
                return attend(module, query, key, value, attention_mask, **more)

            return noted

        interface.get_interface = get_interface
        try:
            yield
        finally:
            interface.get_interface = look_up


def _note(
    pairs: _Pairs, form: str, module: Any, query: Tensor, key: Tensor, mask: Any, more: Any
) -> None:
    """Note one call of attention, by what transformers' own forms make of their arguments."""
    if form not in _FORMS:
        checks.reject(_WHERE, "model", "attend by 'eager' or 'sdpa'", form)
    keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # heads share keys
    scale = more.get("scaling")
    told = more.get("is_causal")
    causal = getattr(module, "is_causal", True) if told is None else told
    pairs.note(
        query,
        keys,
        query.shape[-1] ** -0.5 if scale is None else scale,
        _seen(query, keys, mask, form == "sdpa" and causal),  # "eager" never is, without a mask
    )


def _seen(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Which query sees which key, bool (B, L, S)."""
    shape = len(query), query.shape[2], key.shape[2]
    if mask is None:
        every = query.new_ones(shape, dtype=torch.bool)
        return every.tril() if causal and shape[1] > 1 else every
    if mask.ndim != 4 or mask.shape[1] != 1:
        expected = "have one mask for all heads, of shape (B, 1, L, S)"
        checks.reject(_WHERE, "model", expected, tuple(mask.shape))
    kept = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    seen = kept[:, 0, :, : shape[2]].expand(shape)
    is_token = seen.any(1)  # padding, which nothing sees, looks about all the same
    return seen & is_token[:, :, None] if shape[1] == shape[2] else seen


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ArgumentError(
            "effective_beta: `model` needs the package transformers; install it with: "
            "pip install 'pentti[hf]'"
        ) from error
    if not hasattr(transformers.AttentionInterface, "get_interface"):
        checks.reject(_WHERE, "model", "be of transformers 5 or later", transformers.__version__)
    return transformers


def _a(value: object) -> checks.Words:
    return checks.Words(f"a {type(value).__name__}")

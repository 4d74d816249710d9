"""A memory of the present text: what a sequence writes as it goes, it reads by content."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentti import checks
from pentti.decoders import ProductKeys
from pentti.decoders.product import checked_codebooks
from pentti.nn.addressing import checked_address, checked_locations
from pentti.nn.local.base import check_mask
from pentti.nn.memory_state import FORGET, MemoryState
from pentti.nn.sdm import implied_beta
from pentti.nn.weighting import Weighting
from pentti.nn.written import Writes, alone, continued
from pentti.tensors import check_tokens

__all__ = ["RULES", "SequenceMemory", "SequenceOutput"]

RULES = ("hebbian", "delta")
"""How a value is written: added, or so that its address gives it from now on."""

_FLOOR = 0.1  # of the evidence, at the start
_KEPT = 0.999  # what decay leaves after a token, at the start
_LEAST_KEPT = 0.9  # and at the least: what goes faster, a window serves
_PART = 8192  # tokens of a pass without gradients
_RANGE = 40.0  # of logarithms that are multiplied out, so that float32 holds them twice


class SequenceOutput(NamedTuple):
    """What a sequence memory gives for tokens (B, L, D).

    Attributes:
        output: Shape (B, L, D).
        meter: The activation count: hard locations that were read, over all heads, int64 (B, L).
        evidence: How much of the past matched, (B, L): 1 is one earlier token of the same
            address, averaged over heads. Chance overlaps add to it as a state fills.
        state: What was written so far; None unless one was given.
    """

    output: Tensor
    meter: Tensor
    evidence: Tensor
    state: MemoryState | None


class SequenceMemory(nn.Module):
    """Attention over a whole context at a cost per token that does not grow.

    Each token reads the few hard locations that its address activates, and its value is written
    into those that the address *before* it activated: Kanerva's way to store a sequence, so that an
    address gives what followed it. Two tokens see one another by the overlap of their activations,
    which falls off with their distance about as softmax attention does. The memory is exact and
    causal, token by token, with any number of tokens at once.

    A read is divided by its evidence (the overlaps' sum) plus a learned floor, so that what
    little chance overlaps give is damped. As a sequence touches more and more of the M locations,
    chance overlaps grow; M should be no less than top_k times the longest context. It costs
    little: addressing costs √M, or its fourth root with four codebooks, and only touched
    locations are held.

    Args:
        dim: Width of a token, D.
        n_heads: Heads, each with addresses and a memory of its own, H; they share the width.
        n_locations: Hard locations of each head, M, at most 2^40: a square, or an n-th power
            with n codebooks; unless given, the first with room for `max_length` tokens at
            `top_k` each.
        max_length: Longest context that is expected; longer ones work, and match less well.
        top_k: Hard locations that a head activates, K. With one alone addresses do not learn.
        address_dim: Components of a head's address, a multiple of the codebooks and two for each
            at least; unless given the first such number from the width of its values on.
        n_codebooks: Codebooks of a head's addresses, a power of two up to 32: with four, a short
            search finds its way among millions of locations, where chance overlaps are few.
        shift: Whether a value is written at the address before it. Otherwise at its own, and each
            token sees itself: for values and addresses that are paired token by token. Under the
            delta rule it then reads back what it has just written, unless a gate holds it back.
        rule: "hebbian", or "delta": a write corrects what its address gave until now.
        decay: Whether what was written fades, by a factor for each token that each head learns,
            between 0.9 and 1.
        write_gate: Whether each head learns which tokens to write, and how strongly.
        precise: Whether sums are kept in float64, for texts of millions of tokens that write to
            the same locations again and again, at twice the memory.
        max_locations: Most touched locations that a head's state keeps from call to call; without
            a state nothing is forgotten.
        forget: Which go first beyond that: "oldest" or "least".
        seed: Of the first addresses.

    Raises:
        ArgumentError: if a size is out of range, `dim` no multiple of the heads, `address_dim`
            none of the codebooks, or M no n-th power with n codebooks.

    Shapes:
        x (B, L, D) → output (B, L, D), meter (B, L), evidence (B, L).

    Examples:
        >>> layer = SequenceMemory(16, 2, n_locations=256, top_k=4)
        >>> x = torch.randn(1, 6, 16)
        >>> whole = layer(x)
        >>> state = layer.new_cache(1)
        >>> parts = [layer(part, state).output for part in x.split(4, dim=1)]
        >>> torch.allclose(torch.cat(parts, dim=1), whole.output, atol=1e-5)
        True

    **Source:** Kanerva, *Sparse Distributed Memory* (1988), chapter 8; Lample et al. 2019
    (arXiv 1907.05242) for the addressing; Schlag et al. 2021 (arXiv 2102.11174) for the delta rule.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        *,
        n_locations: int | None = None,
        max_length: int = 8192,
        top_k: int = 8,
        address_dim: int | None = None,
        n_codebooks: int = 2,
        shift: bool = True,
        rule: str = "hebbian",
        decay: bool = False,
        write_gate: bool = False,
        precise: bool = False,
        max_locations: int | None = None,
        forget: str = "oldest",
        seed: int = 0,
    ) -> None:
        super().__init__()
        where = "SequenceMemory"
        self.dim, self.n_heads = (
            checks.count(where, "dim", dim),
            checks.count(where, "n_heads", n_heads),
        )
        if self.dim % self.n_heads:
            got = checks.Words(f"{self.dim} with {self.n_heads} heads")
            checks.reject(where, "dim", "be a multiple of `n_heads`", got)
        self.width = self.dim // self.n_heads
        top_k = checks.count(where, "top_k", top_k)
        max_length = checks.count(where, "max_length", max_length)
        n_codebooks = checked_codebooks(where, n_codebooks)
        n_locations = checked_locations(where, n_locations, max_length, top_k, n_codebooks)
        checks.integer(where, "seed", seed, 0, 2**63 - 1)
        part = checked_address(where, address_dim, self.width, n_codebooks)
        self.shift = checks.flag(where, "shift", shift)
        checks.one_of(where, "rule", rule, RULES)
        self.rule = rule
        self.precise = checks.flag(where, "precise", precise)
        self.decoder = ProductKeys(
            part * self.n_heads, n_locations, n_heads=self.n_heads, top_k=top_k,
            n_codebooks=n_codebooks, learned=True, seed=seed,
        )  # fmt: skip
        self.n_locations, self.top_k = self.decoder.n_locations, top_k
        if max_locations is not None:
            checks.integer(where, "max_locations", max_locations, top_k)
        checks.one_of(where, "forget", forget, FORGET)
        self.max_locations, self.forget = max_locations, forget
        with self.decoder.device:
            self.address = nn.Linear(self.dim, self.decoder.dim, bias=False)
            self.value = nn.Linear(self.dim, self.dim, bias=False)
            self.out = nn.Linear(self.dim, self.dim, bias=False)
            self.weigh = Weighting("softmax", self.n_heads, max(1.0, implied_beta(self.decoder)))
            floor = torch.full((self.n_heads,), math.log(math.expm1(_FLOOR)))
            self.floor = nn.Parameter(floor) if rule == "hebbian" else None
            decay = checks.flag(where, "decay", decay)
            share = (_KEPT - _LEAST_KEPT) / (1 - _LEAST_KEPT)
            start = torch.full((self.n_heads,), math.log(share / (1 - share)))
            self.kept = nn.Parameter(start) if decay else None
            gated = checks.flag(where, "write_gate", write_gate)
            self.gate = nn.Linear(self.dim, self.n_heads) if gated else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, 2.0)

    def forward(
        self, x_BLD: Tensor, cache: MemoryState | None = None, *, token_mask: Tensor | None = None
    ) -> SequenceOutput:
        """Write and read along each sequence.

        Args:
            x_BLD: Tokens, shape (B, L, D).
            cache: What was written before, from `new_cache`; it is changed in place, so that a
                backward pass must not run this again (as `torch.utils.checkpoint` does). The
                layer's own bound holds for it.
            token_mask: True where there is a token, shape (B, L); others write nothing, and give 0.

        Returns:
            Output, meter, evidence and the state.

        Raises:
            ArgumentError: if a shape, type or device does not fit, or the state is another
                layer's.
        """
        self._check(x_BLD, cache, token_mask)
        if cache is not None:
            cache.max_locations, cache.forget = self.max_locations, self.forget
        if token_mask is not None:  # a NaN that is no token must not reach a gradient either
            x_BLD = torch.where(token_mask[..., None], x_BLD, 0)
        step = self._longest_pass(x_BLD)
        if x_BLD.shape[1] <= step:
            return self._pass(x_BLD, cache, token_mask)
        state = self.new_cache(len(x_BLD)) if cache is None else cache
        if cache is None:
            state.max_locations = None  # as in a single pass
        parts = []
        for low in range(0, x_BLD.shape[1], step):
            some = slice(low, low + step)
            mask = None if token_mask is None else token_mask[:, some]
            parts.append(self._pass(x_BLD[:, some], state, mask))
        output, meter, evidence, _ = zip(*parts, strict=True)
        return SequenceOutput(
            torch.cat(output, 1), torch.cat(meter, 1), torch.cat(evidence, 1), cache
        )

    def _longest_pass(self, x_BLD: Tensor) -> int:
        """How many tokens go through at once; more go in parts, through a state.

        What fades must not leave the range of numbers within one pass; and without gradients, long
        texts stay in the cache in parts.
        """
        longest = max(1, x_BLD.shape[1])
        if self.kept is not None:
            fastest = -float(self._log_kept.detach().min())
            if fastest > 0:  # and no NaN
                longest = min(longest, max(1, int(_RANGE / fastest)))
        if x_BLD.device.type == "cpu" and not torch.is_grad_enabled():
            longest = min(longest, _PART)
        return longest

    def _pass(
        self, x_BLD: Tensor, cache: MemoryState | None, token_mask: Tensor | None
    ) -> SequenceOutput:
        address = self.address(x_BLD)
        locations, similarity, active = self.decoder.nearest(address)
        weights, _ = self.weigh(similarity, active, limited=False)
        if self.rule == "delta":
            weights = functional.normalize(weights, dim=-1)
        values = self.value(x_BLD).unflatten(-1, (self.n_heads, self.width))
        wide = self._wide(values.dtype)
        writes = self._writes(
            x_BLD, locations, weights.to(wide), values.to(wide), cache, token_mask
        )
        with torch.autocast(x_BLD.device.type, enabled=False):  # sums stay in float32
            if cache is None:
                sums, masses = alone(writes, self.n_locations)
            else:
                sums, masses = continued(writes, cache)
        if cache is not None:
            self._note(writes, cache, x_BLD, token_mask)
        sums = sums.unflatten(0, (len(x_BLD), self.n_heads))
        masses = masses.unflatten(0, (len(x_BLD), self.n_heads))
        own = weights.to(wide).square().sum(-1).transpose(1, 2)
        nothing = 0 * own  # or NaN, for a token that is none
        if self.floor is None:
            sums = sums + nothing[..., None]
        else:
            floor = functional.softplus(self.floor.to(wide))[:, None]
            sums = sums / (masses + floor + nothing)[..., None]
        output = self.out(sums.transpose(1, 2).flatten(2).to(values.dtype))
        evidence = (masses / own.clamp_min(torch.finfo(wide).tiny)).mean(1)
        evidence = evidence.to(torch.promote_types(values.dtype, torch.float32))
        meter = active.sum((-2, -1))
        if token_mask is not None:
            output = torch.where(token_mask[..., None], output, 0)
            evidence, meter = (
                torch.where(token_mask, evidence, 0),
                torch.where(token_mask, meter, 0),
            )
        return SequenceOutput(output, meter, evidence, cache)

    def new_cache(self, batch: int) -> MemoryState:
        """A state in which nothing is written yet.

        Args:
            batch: Number of sequences.

        Returns:
            The state.
        """
        codebooks = self.decoder.codebooks
        return MemoryState(
            batch, self.n_heads, self.n_locations, self.width, self.top_k,
            max_locations=self.max_locations, forget=self.forget,
            writer=self._kind,
            dtype=self._wide(codebooks.dtype), device=codebooks.device,
        )  # fmt: skip

    def _wide(self, dtype: torch.dtype) -> torch.dtype:
        """In which type sums are kept."""
        return torch.promote_types(dtype, torch.float64 if self.precise else torch.float32)

    @property
    def _kind(self) -> str:
        """What decides how a state is to be read, but for its sizes and the weights."""
        fades = ", decay" if self.kept is not None else ""
        return (
            f"{self.decoder.n_codebooks} codebooks of {self.decoder.part_width} components, "
            f"shift={self.shift}, {self.rule}{fades}"
        )

    def _writes(
        self,
        x_BLD: Tensor,
        locations: Tensor,
        weights: Tensor,
        values: Tensor,
        cache: MemoryState | None,
        token_mask: Tensor | None,
    ) -> Writes:
        """Reads and writes of all heads; counts the tokens, and where the last one pointed."""
        written, steps = self._before(locations, weights, cache, token_mask)
        rates = None if self.gate is None else torch.sigmoid(self.gate(x_BLD).to(values.dtype))
        # What is no number, or no token, writes nothing.
        sound = (values.detach().sum(-1) + steps.detach().sum(-1)).isfinite()
        if token_mask is not None:
            sound = sound & token_mask[..., None]
        rates = None if rates is None else torch.where(sound, rates, 0)
        steps = torch.where(sound[..., None], steps, 0)
        values = torch.where(sound[..., None], values, 0)
        amounts = torch.ones_like(steps[..., 0])
        shares = weights
        if self.kept is not None:
            left, grown = self._decay(x_BLD, cache, token_mask)
            shares = shares * left[..., None]
            if self.rule == "delta":
                values, amounts = values * grown[..., None], grown.detach()
            else:
                steps = steps * grown[..., None]
        if self.rule == "hebbian":
            steps = steps if rates is None else steps * rates[..., None]
            rates = None
        elif rates is None:
            rates = torch.ones_like(amounts)
        heads = (locations, shares, written, steps, values, rates, amounts)
        return Writes(*(None if x is None else x.transpose(1, 2).flatten(0, 1) for x in heads))  # type: ignore[arg-type]

    def _before(
        self,
        locations: Tensor,
        weights: Tensor,
        cache: MemoryState | None,
        token_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Where each token's value is written: the address of the token before it."""
        if not self.shift:
            return locations, weights
        if cache is None:
            last, share = torch.zeros_like(locations[:, :1]), torch.zeros_like(weights[:, :1])
            if not locations.shape[1]:
                return locations, weights
        else:
            last, share = cache.last_locations[:, None], cache.last_weights[:, None]
        places, shares = torch.cat([last, locations], 1), torch.cat([share, weights], 1)
        if token_mask is None:
            before = None
            end = torch.full((len(locations),), locations.shape[1], device=locations.device)
        else:  # the last token that was one; slot 0 is what came before all of them
            index = torch.arange(1, token_mask.shape[1] + 1, device=token_mask.device)
            index = torch.where(token_mask, index, 0)
            index = torch.cat([index.new_zeros(len(index), 1), index], 1).cummax(1).values
            before, end = index[:, :-1], index[:, -1]
        if cache is not None:
            rows = torch.arange(len(end), device=end.device)
            cache.last_locations, cache.last_weights = places[rows, end], shares[rows, end]
        if before is None:
            return places[:, :-1], shares[:, :-1]
        chosen = before[:, :, None, None].expand(locations.shape)
        return places.gather(1, chosen), shares.gather(1, chosen)

    @property
    def _log_kept(self) -> Tensor:
        """Logarithm of what each head's decay leaves after a token."""
        assert self.kept is not None  # noqa: S101 only layers with decay ask
        kind = torch.promote_types(self.kept.dtype, torch.float32)
        return torch.log(_LEAST_KEPT + (1 - _LEAST_KEPT) * torch.sigmoid(self.kept.to(kind)))

    def _decay(
        self, x_BLD: Tensor, cache: MemoryState | None, token_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What is left of the table's numbers at each token, (B, L, H), and one over it."""
        kept = self._log_kept
        if token_mask is None:
            passed = torch.arange(1, x_BLD.shape[1] + 1, device=x_BLD.device).expand(
                x_BLD.shape[:2]
            )
        else:
            passed = token_mask.cumsum(1)
        faded = passed[..., None] * kept
        if cache is not None:
            before = cache.scale.view(-1, 1, self.n_heads)
            faded = before + faded
            if x_BLD.shape[1]:
                cache.scale = faded[:, -1].flatten().clone()
        return faded.exp(), (-faded).exp()

    def _note(
        self, writes: Writes, cache: MemoryState, x_BLD: Tensor, token_mask: Tensor | None
    ) -> None:
        """Count the tokens, and forget what there is too much of."""
        mask = token_mask
        if mask is None:
            mask = torch.ones(x_BLD.shape[:2], dtype=torch.bool, device=x_BLD.device)
        times = cache.n_tokens[:, None] + mask.cumsum(1)
        cache.n_tokens = cache.n_tokens + mask.sum(1)
        cache.note(
            writes.written, writes.weights != 0, times.repeat_interleave(self.n_heads, dim=0)
        )
        if self.kept is not None and cache.batch and bool((cache.scale < -_RANGE).any()):
            cache.rescale()

    def _check(self, x: Any, cache: Any, token_mask: Any) -> None:
        where = "SequenceMemory"
        check_tokens(where, x, self.dim, self.address.weight)
        check_mask(where, x, token_mask)
        if cache is None:
            return
        self.new_cache(0).check_like(where, "cache", cache)
        if cache.batch != len(x):
            got = checks.Words(f"one of {cache.batch}")
            checks.reject(where, "cache", f"be of {len(x)} sequences", got)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"dim={self.dim}, n_heads={self.n_heads}, shift={self.shift}, rule={self.rule!r}"

"""Text from a model, one token at a time: sampling, stop tokens, prompts of any lengths."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pentti import checks
from pentti.nn.tokens import check_range, left_padded

__all__ = ["LanguageModel", "STOPPED", "Sampling", "evaluating", "sampled"]  # noqa: RUF022 as `sorted` has it

STOPPED = -1
"""What a stream gives for a prompt that has met its stop token."""


class Sampling(NamedTuple):
    """How the next token is drawn.

    Attributes:
        temperature: Divides the logits; 0 takes the most likely token.
        top_k: Only the k most likely tokens; None for all.
        top_p: Only the most likely tokens that reach this probability together.
        generator: Where the randomness comes from.
    """

    temperature: float
    top_k: int | None
    top_p: float
    generator: torch.Generator | None


class LanguageModel(nn.Module, ABC):
    """Base of models that continue a text: it needs `new_cache` and `next_logits`."""

    vocab_size: int

    @abstractmethod
    def new_cache(self, batch: int, memory: Any = None) -> Any:
        """An empty cache for so many sequences.

        Args:
            batch: Number of sequences.
            memory: What they have told before, which grows with the cache; None for nothing.

        Returns:
            What `next_logits` takes.
        """

    @abstractmethod
    def next_logits(self, ids_BL: Tensor, *, token_mask: Tensor | None, cache: Any) -> Tensor:
        """Logits of the token after the last one.

        Args:
            ids_BL: The new tokens.
            token_mask: True where there is a token.
            cache: What came before; it grows by the new tokens.

        Returns:
            Shape (B, V).
        """

    def generate(
        self,
        prompt_ids: Any,
        n_new: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        stop: Iterable[int] = (),
        generator: torch.Generator | None = None,
        memory: Any = None,
    ) -> Tensor | list[Tensor]:
        """Continue each prompt.

        Args:
            prompt_ids: Ids of one prompt (L,), of several of one length (B, L), or a list of
                prompts of any lengths.
            n_new: Most tokens to add, at least 0.
            temperature: Divides the logits; 0 takes the most likely token, without randomness.
            top_k: Draw among the k most likely tokens only.
            top_p: Draw among the most likely tokens that reach this probability together, (0, 1].
            stop: Tokens that end a text; the one that came is its last token.
            generator: Where the randomness comes from; torch's own unless given.
            memory: What each user has told before, from `new_memory`. The model reads it, and
                writes the prompt and the new tokens into it, in place: give `memory.clone()` to
                leave it as it was. With `n_new` = 0 it is told the prompt, and no more.

        Returns:
            The new tokens of one prompt (n,), or a list with those of each prompt. Without a stop
            token all have n_new.

        Raises:
            ArgumentError: if a prompt is empty, an id is out of the vocabulary, or an option is
                out of range; if the logits are NaN or infinite; if the memory is not the model's,
                or of another number of prompts.
        """
        steps = list(
            self.stream(
                prompt_ids,
                n_new,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                stop=stop,
                generator=generator,
                memory=memory,
            )
        )
        if not steps:
            ids, _, single = self._prompts(prompt_ids)
            nothing = [ids.new_zeros(0) for _ in ids]
            return nothing[0] if single else nothing
        new = torch.stack(steps, dim=-1)
        return new if new.ndim == 1 else [row[row != STOPPED] for row in new]

    def stream(
        self,
        prompt_ids: Any,
        n_new: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        stop: Iterable[int] = (),
        generator: torch.Generator | None = None,
        memory: Any = None,
    ) -> Iterator[Tensor]:
        """Continue each prompt, and give every token as soon as it is there.

        Between two tokens the model is as the caller left it (training or not), so that one may
        break off at any time.

        Args:
            prompt_ids: As for `generate`.
            n_new: Most tokens to add, at least 0.
            temperature: Divides the logits; 0 takes the most likely token.
            top_k: Draw among the k most likely tokens only.
            top_p: Draw among the most likely tokens that reach this probability together, (0, 1].
            stop: Tokens that end a text.
            generator: Where the randomness comes from.
            memory: As for `generate`. The last token is written when one asks for what follows it,
                so that a stream that is broken off leaves out the last token it gave.

        Returns:
            An iterator of tokens: one for each prompt (B,), `STOPPED` for those that have ended;
            of shape () for a single prompt. It ends when all have ended.

        Raises:
            ArgumentError: at once, as for `generate`.
        """
        where = f"{type(self).__name__}.generate"
        ids, mask, single = self._prompts(prompt_ids)
        n_new = checks.integer(where, "n_new", n_new, 0)
        temperature = checks.number(where, "temperature", temperature, 0.0, math.inf)
        if top_k is not None:
            top_k = checks.integer(where, "top_k", top_k, 1, self.vocab_size)
        top_p = checks.number(where, "top_p", top_p, -math.inf, math.inf)
        if not 0 < top_p <= 1:
            checks.reject(where, "top_p", "be in (0, 1]", top_p)
        if not isinstance(generator, torch.Generator | None):
            checks.reject(where, "generator", "be a torch.Generator", generator)
        if generator is not None and generator.device.type != ids.device.type:
            got = checks.Words(str(generator.device))
            checks.reject(where, "generator", f"be on {ids.device}", got)
        if not isinstance(stop, Iterable):
            checks.reject(where, "stop", "be a list of tokens", stop)
        ends = [checks.integer(where, "stop", end, 0, self.vocab_size - 1) for end in stop]
        how = Sampling(temperature, top_k, top_p, generator)
        cache = self.new_cache(len(ids), memory)
        rows = self._rows(ids, mask, n_new, how, ends, cache, memory is not None)
        return (row[0] for row in rows) if single else rows

    def _prompts(self, prompt_ids: Any) -> tuple[Tensor, Tensor | None, bool]:
        where = f"{type(self).__name__}.generate"
        device = next(self.parameters()).device
        ids, mask, single = left_padded(where, prompt_ids, self.vocab_size, device)
        check_range(where, "prompt_ids", ids, self.vocab_size)  # on any device: it is done once
        return ids, mask, single

    def _rows(
        self,
        ids: Tensor,
        mask: Tensor | None,
        n_new: int,
        how: Sampling,
        ends: list[int],
        cache: Any,
        told: bool,
    ) -> Iterator[Tensor]:
        """The tokens; where `told`, the cache has seen all of them in the end, and no others."""
        last = torch.tensor(ends, device=ids.device)
        going = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        for _ in range(n_new):
            chosen = self._next(ids, mask, cache, how)
            yield torch.where(going, chosen, STOPPED)
            ids, mask = chosen[:, None], None
            if told and not going.all():  # what has ended is not to be told what follows
                mask = going[:, None]
            going = going & ~torch.isin(chosen, last)
            if not going.any():
                break
        if told:
            self._tell(ids, mask, cache)

    @torch.no_grad()
    def _next(self, ids: Tensor, mask: Tensor | None, cache: Any, how: Sampling) -> Tensor:
        logits = self._tell(ids, mask, cache)
        highest = logits.amax(-1)  # NaN where any is
        if not highest.isfinite().all():
            where, got = f"{type(self).__name__}.generate", highest[~highest.isfinite()][0].item()
            checks.reject(where, "prompt_ids", "lead to logits that are numbers", got)
        return sampled(logits, how)

    @torch.no_grad()
    def _tell(self, ids: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        with evaluating(self):
            return self.next_logits(ids, token_mask=mask, cache=cache)


def sampled(logits_BV: Tensor, how: Sampling) -> Tensor:
    """Draw a token for each row.

    Args:
        logits_BV: Logits, shape (B, V).
        how: Temperature, cuts and randomness. The cuts follow the temperature, top_k first.

    Returns:
        Ids, shape (B,).

    Examples:
        >>> logits = torch.tensor([[0.0, 3.0, 2.9], [5.0, 0.0, 0.0]])
        >>> sampled(logits, Sampling(0.0, None, 1.0, None))
        tensor([1, 0])
        >>> sampled(logits, Sampling(1.0, 2, 0.3, torch.Generator().manual_seed(0)))
        tensor([1, 0])

    **Source:** top_p: Holtzman et al., The curious case of neural text degeneration (2019), arXiv
    1904.09751, section 3.1.
    """
    if how.temperature == 0:
        return logits_BV.argmax(-1)
    logits = logits_BV.double()  # so that no temperature above 0 divides by 0
    logits = (logits - logits.amax(-1, keepdim=True)) / how.temperature
    logits, order = logits.sort(dim=-1, descending=True, stable=True)
    logits = logits[:, : how.top_k]
    share = logits.softmax(-1)
    share = share * (share.cumsum(-1) - share < how.top_p)
    drawn = torch.multinomial(share, 1, generator=how.generator)
    return order.gather(-1, drawn)[:, 0]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every module is as it was.

    Args:
        model: The model.

    Yields:
        Nothing.
    """
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training

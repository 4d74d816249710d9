"""A whole model: tokens in, logits and the meters of its memories out."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentti import checks
from pentti.errors import ArgumentError, StoreError
from pentti.nn import evidence, pretrained
from pentti.nn.config import PenttiConfig
from pentti.nn.generation import LanguageModel
from pentti.nn.layers import block
from pentti.nn.loss import as_targets, cross_entropy, next_tokens
from pentti.nn.model_memory import ModelMemory, found_in, put_into
from pentti.nn.sdm import SDMLayer
from pentti.nn.tokens import as_ids, as_mask

__all__ = ["EvidenceOutput", "ParameterCount", "PenttiTransformer", "TransformerOutput"]


class TransformerOutput(NamedTuple):
    """What a model gives for every position.

    Attributes:
        logits: Of the next token (or, in a bidirectional model, of this one), shape (B, L, V).
        meters: Activated hard locations in each layer, int64 of shape (B, n_layers, L).
    """

    logits: Tensor
    meters: Tensor


class EvidenceOutput(NamedTuple):
    """What a model gives for every position, with what its sequence memories have found.

    Attributes:
        logits: As in `TransformerOutput`.
        meters: As in `TransformerOutput`.
        evidence: How much of what was told each layer has found again, shape (B, n_layers, L): 1 is
            one earlier token of the same address. 0 in a layer without a sequence memory.
    """

    logits: Tensor
    meters: Tensor
    evidence: Tensor


class ParameterCount(NamedTuple):
    """Numbers of parameters.

    Attributes:
        dense: Those that every token uses.
        contents: Those of the memories' contents; a token uses the rows it activates.
    """

    dense: int
    contents: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.dense + self.contents


class PenttiTransformer(LanguageModel):
    """A Transformer with local attention everywhere and memories at chosen layers.

    All positions are computed at once. Positions are rotary, so that there is no longest length.
    The linear layers start as torch's do; those that end a residual branch are divided by
    √(2 · n_layers), so that the residual stream keeps its scale at any depth. Embeddings start with
    variance 1 / D: what a token is stays visible beside what the blocks add to it, and the logits
    begin with a spread of about one.

    Args:
        vocab_size: Number of tokens, V.
        dim: Width of a token, D.
        n_layers: Number of blocks.
        n_heads: Heads of the attention.
        n_locations: Hard locations of each memory.
        **settings: Anything else in `PenttiConfig`.

    Raises:
        ArgumentError: if a setting is out of range.

    Shapes:
        ids (B, L) → logits (B, L, V), meters (B, n_layers, L).

    Examples:
        >>> model = PenttiTransformer(256, 16, 3, 2, 49, top_k=3, memory_heads=2)
        >>> ids = torch.tensor([[80, 101, 110, 116, 116, 105]])
        >>> logits, meters = model(ids)
        >>> logits.shape, meters.shape
        (torch.Size([1, 6, 256]), torch.Size([1, 3, 6]))
        >>> model.generate(ids[0], 4, temperature=0).shape
        torch.Size([4])

    **Source:** initialisation: Radford et al., Language models are unsupervised multitask learners
    (2019), section 2.3 (1/√N with N residual layers). Tied embeddings: Press and Wolf (2016), arXiv
    1608.05859.
    """

    _version = pretrained.STATE_VERSION

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        n_layers: int,
        n_heads: int,
        n_locations: int = 99_856,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.config = PenttiConfig(
            vocab_size=vocab_size,
            dim=dim,
            n_layers=n_layers,
            n_heads=n_heads,
            n_locations=n_locations,
            **settings,
        )
        config = self.config
        self.vocab_size = config.vocab_size
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(block(config, layer) for layer in range(config.n_layers))
        self.norm = nn.RMSNorm(config.dim, eps=1e-6)
        self.head = None if config.tied else nn.Linear(config.dim, config.vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(config.dim))

    @classmethod
    def of(cls, config: PenttiConfig) -> PenttiTransformer:
        """The model that a configuration describes.

        Args:
            config: The settings.

        Returns:
            A new model.
        """
        return cls(**config.as_dict())

    def forward(
        self, ids_BL: Any, *, token_mask: Any = None, cache: Any = None
    ) -> TransformerOutput:
        """Logits and meters at every position.

        Args:
            ids_BL: Token ids, shape (B, L).
            token_mask: True where there is a token, shape (B, L); None where all are. Elsewhere
                the meters are 0 and the logits mean nothing.
            cache: From `new_cache`; then the ids are the new tokens only, and the mask theirs.

        Returns:
            Logits (B, L, V) and meters (B, n_layers, L).

        Raises:
            ArgumentError: if an id is out of the vocabulary or a shape is not as expected.
        """
        x_BLD, meters = self.hidden(ids_BL, token_mask=token_mask, cache=cache)
        return TransformerOutput(functional.linear(x_BLD, self.head_weight), meters)

    def with_evidence(
        self, ids_BL: Any, *, token_mask: Any = None, cache: Any = None
    ) -> EvidenceOutput:
        """What the model gives, and how much of what was told it has found again.

        Args:
            ids_BL: As for the model itself.
            token_mask: As for the model itself.
            cache: As for the model itself; it changes as it would there.

        Returns:
            Logits, meters and the evidence of each layer.

        Raises:
            ArgumentError: as for the model itself.
        """
        with evidence.heard(self.blocks) as heard:
            logits, meters = self.forward(ids_BL, token_mask=token_mask, cache=cache)
        return EvidenceOutput(logits, meters, evidence.of_layers(heard, meters))

    def hidden(
        self, ids_BL: Any, *, token_mask: Any = None, cache: Any = None
    ) -> tuple[Tensor, Tensor]:
        """The last hidden state, of which the logits are made, and the meters.

        Args:
            ids_BL: As for the model itself.
            token_mask: As for the model itself.
            cache: As for the model itself.

        Returns:
            Hidden state (B, L, D), normalised, and meters (B, n_layers, L).

        Raises:
            ArgumentError: as for the model itself.
        """
        where, device = type(self).__name__, self.embedding.weight.device
        ids_BL = as_ids(where, "ids_BL", ids_BL, self.vocab_size, device)
        if ids_BL.ndim != 2:
            got = checks.Words(f"shape {tuple(ids_BL.shape)}")
            checks.reject(where, "ids_BL", "have shape (batch, length)", got)
        mask = as_mask(where, token_mask, ids_BL)
        if cache is not None and (not isinstance(cache, list) or len(cache) != len(self.blocks)):
            got = checks.Words(f"a {type(cache).__name__} of another kind or length")
            checks.reject(where, "cache", "come from `new_cache`", got)
        x_BLD = self.dropout(self.embedding(ids_BL))
        meters = []
        for number, one in enumerate(self.blocks):
            own = None if cache is None else cache[number]
            x_BLD, meter = one(x_BLD, token_mask=mask, cache=own)
            meters.append(meter)
        return self.norm(x_BLD), torch.stack(meters, dim=1)

    @property
    def head_weight(self) -> Tensor:
        """The vectors whose products with the last hidden state are the logits, (V, D)."""
        return self.embedding.weight if self.head is None else self.head.weight

    def loss(self, ids_BL: Any, targets_BL: Any = None, *, token_mask: Any = None) -> Tensor:
        """Mean cross entropy, in nats a token.

        Many logits are made a block of positions at a time, and made again in the backward pass,
        so that they are never all held.

        Args:
            ids_BL: Token ids, shape (B, L).
            targets_BL: What each position should give, shape (B, L), −100 where it does not count.
                Unless given, each token is to be told from those before it.
            token_mask: True where there is a token, shape (B, L).

        Returns:
            The loss, a float32 scalar (float64 in a float64 model); 0 where no position counts.

        Raises:
            ArgumentError: if targets are needed (a bidirectional model; one token) or do not fit.
        """
        where, device = f"{type(self).__name__}.loss", self.embedding.weight.device
        ids_BL = as_ids(where, "ids_BL", ids_BL, self.vocab_size, device)
        mask = as_mask(where, token_mask, ids_BL)
        if targets_BL is not None:
            targets = as_targets(where, targets_BL, ids_BL, mask, self.vocab_size)
        elif self.config.causal:
            ids_BL, targets, mask = next_tokens(where, ids_BL, mask)
        else:
            got = checks.Words("none")
            checks.reject(where, "targets_BL", "be given to a bidirectional model", got)
        x_BLD, _ = self.hidden(ids_BL, token_mask=mask)
        return cross_entropy(x_BLD.flatten(0, 1), self.head_weight, targets.flatten())

    def new_cache(self, batch: int, memory: ModelMemory | None = None) -> list[Any]:
        """A cache for tokens that come a few at a time, empty but for what was told before.

        Args:
            batch: Number of sequences.
            memory: What each user has told before, from `new_memory`: the model reads from it and
                writes into it. None for nothing.

        Returns:
            One for each block.

        Raises:
            ArgumentError: if the model is bidirectional, or the memory is another model's, or of
                another batch, type or device.
        """
        where = type(self).__name__
        if not self.config.causal:
            checks.reject(where, "causal", "be True in a model that goes token by token", False)
        cache = [one.new_cache(batch) for one in self.blocks]  # type: ignore[operator]
        return cache if memory is None else put_into(f"{where}.new_cache", cache, memory)

    def new_memory(self, batch: int) -> ModelMemory:
        """A memory in which nothing is told yet, for some users; see `generate` and `new_cache`.

        Args:
            batch: Number of users.

        Returns:
            The states of all sequence memories of this model.

        Raises:
            ArgumentError: if it has no sequence memory.
        """
        where = f"{type(self).__name__}.new_memory"
        states = list(found_in(self.new_cache(checks.integer(where, "batch", batch, 0))))
        if not states:
            expected = "hold 'sequence' in a model with a memory of what it is told"
            checks.reject(where, "memory_kind", expected, self.config.memory_kind)
        return ModelMemory(states)

    def next_logits(self, ids_BL: Tensor, *, token_mask: Tensor | None, cache: Any) -> Tensor:
        """Logits of the token after the last one.

        Args:
            ids_BL: The new tokens, shape (B, L).
            token_mask: True where there is a token.
            cache: From `new_cache`.

        Returns:
            Shape (B, V).
        """
        x_BLD, _ = self.hidden(ids_BL, token_mask=token_mask, cache=cache)
        return functional.linear(x_BLD[:, -1], self.head_weight)

    def n_parameters(self) -> ParameterCount:
        """How many parameters there are, and how many of them are contents of memories.

        Returns:
            Both numbers; `total` is their sum.
        """
        memories = [module for module in self.modules() if isinstance(module, SDMLayer)]
        contents = sum(memory.contents.numel() for memory in memories)
        total = sum(parameter.numel() for parameter in self.parameters())
        return ParameterCount(total - contents, contents)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors``, each whole or not at all.

        Args:
            folder: Where to; made if it is missing.

        Raises:
            StoreError: if it cannot be written.
        """
        pretrained.save(folder, self.config, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> PenttiTransformer:
        """A model as it was saved: settings, state and dtypes; on the CPU, ready to train.

        Args:
            folder: Where `save_pretrained` wrote it.

        Returns:
            The model.

        Raises:
            StoreError: if it is missing, damaged, newer than this pentti, or of another shape.
        """
        config = pretrained.read_config(folder)
        try:
            with torch.device("cpu"):
                model = cls.of(config)
        except ArgumentError as error:  # settings that fit one by one, but not together
            raise StoreError(f"cannot read {folder}: {error}") from error
        pretrained.load(folder, model)
        return model

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Take over a state; one that does not fit is refused before anything is changed.

        Args:
            state_dict: From `state_dict` of a model with the same settings.
            strict: Refuse missing and unknown names.
            assign: As torch has it.

        Returns:
            Names that were missing or unknown, as torch gives them.

        Raises:
            StoreError: if it is of a newer version, a shape differs, or, where strict, a name.
        """
        kept = getattr(state_dict, "_metadata", {}).get("", {}).get("version", self._version)
        if kept > self._version:
            raise StoreError(
                f"cannot read the state: its version {kept} is newer than {self._version}, "
                "the newest that this pentti reads; install a newer one"
            )
        shapes = {name: tensor.shape for name, tensor in self.state_dict().items()}
        check = pretrained.check_state if strict else pretrained.check_shapes
        check("the state", shapes, state_dict)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

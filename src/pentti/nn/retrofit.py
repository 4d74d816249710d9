"""Give a pretrained decoder memories: they begin as nothing at all, and train alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pentti import checks
from pentti.decoders import ProductKeys
from pentti.errors import ArgumentError, StoreError
from pentti.nn.config import MEMORY_KINDS
from pentti.nn.memory_state import MemoryState
from pentti.nn.pretrained import check_state
from pentti.nn.sdm import SDMLayer
from pentti.nn.sequence import SequenceMemory
from pentti.nn.sequence_config import SequenceConfig
from pentti.persistence import load_tensors, save_tensors

__all__ = ["AddedMemory", "GatedMemory", "add_memory", "load_memory"]

_KIND = "added memory"
_NAME = "pentti_memory"
_STATES = "_pentti_states"


class GatedMemory(nn.Module):
    """What a memory adds to the output of a layer: nothing at first, then what its gate lets in.

    Args:
        dim: Width of a token, D.
        memory: A memory of that width.

    Shapes:
        x (B, L, D) → (B, L, D), zero as long as the gate is.

    **Source:** gates that begin at tanh 0: Alayrac et al., *Flamingo* (2022, arXiv 2204.14198),
    section 3.1; the memory: Kanerva, *Sparse Distributed Memory* (1988).
    """

    meter: Tensor | None = None
    """Hard locations that each token activated in the last call, int64 (B, L)."""

    def __init__(self, dim: int, memory: SDMLayer | SequenceMemory) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.memory = memory
        self.gate = nn.Parameter(torch.zeros(dim))

    def forward(
        self, x_BLD: Tensor, *, token_mask: Tensor | None = None, cache: MemoryState | None = None
    ) -> Tensor:
        """What is to be added.

        Args:
            x_BLD: What went into the layer, shape (B, L, D).
            token_mask: True where there is a token, shape (B, L).
            cache: What the tokens before have written.

        Returns:
            Shape (B, L, D), of the type of x.
        """
        with torch.autocast(x_BLD.device.type, enabled=False):
            x = self.norm(x_BLD.to(self.gate.dtype))
            if isinstance(self.memory, SequenceMemory):
                found, self.meter, _, _ = self.memory(x, cache, token_mask=token_mask)
            else:
                found, self.meter = self.memory(x)
            if token_mask is not None:
                found = torch.where(token_mask[..., None], found, 0)
                self.meter = torch.where(token_mask, self.meter, 0)
            self.meter = self.meter.detach()
            more: Tensor = self.gate.tanh() * found
            return more.to(x_BLD.dtype)


class AddedMemory(nn.Module):
    """The memories that `add_memory` has given a model: what is trained, and what is saved.

    Args:
        memories: By layer.
        settings: What they are made with, as JSON can hold it.

    Attributes:
        layers: The layers that have one, counted from 0.
        settings: What they were made with.
    """

    def __init__(self, memories: Mapping[int, GatedMemory], settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.layers = tuple(memories)
        self.settings = dict(settings)
        self.memories = nn.ModuleDict({str(layer): one for layer, one in memories.items()})
        self._hooks: list[Any] = []
        self._owners: list[nn.Module] = []
        self._mask: Tensor | None = None

    @property
    def meters(self) -> dict[int, Tensor | None]:
        """By layer, the hard locations that each token of the last call activated, (B, L)."""
        return {int(layer): one.meter for layer, one in self.memories.items()}  # type: ignore[misc]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the memories, and nothing of the model, to one safetensors file.

        Args:
            path: File to write; replaced whole or not at all.

        Raises:
            StoreError: if it cannot be written.
        """
        config = {"layers": list(self.layers), "settings": self.settings}
        save_tensors(path, _KIND, config, self.memories.state_dict())

    def remove(self) -> None:
        """Take the memories out of the model, which is then as it was, but frozen parameters."""
        for hook in self._hooks:
            hook.remove()
        for owner in self._owners:
            delattr(owner, _NAME)
        self._hooks, self._owners = [], []

    def attach(self, stack: nn.Module, layers: Sequence[nn.Module]) -> None:
        """Let the memories take part in a model.

        Args:
            stack: The module that calls the layers.
            layers: All of its layers.
        """
        self._owners = [layers[layer] for layer in self.layers]
        self._hooks = [stack.register_forward_pre_hook(self._note_mask, with_kwargs=True)]
        for layer in self.layers:
            memory = self.memories[str(layer)]
            setattr(layers[layer], _NAME, memory)
            hook = partial(self._add, layer)
            self._hooks.append(layers[layer].register_forward_hook(hook, with_kwargs=True))

    def _note_mask(self, _: nn.Module, __: Any, given: dict[str, Any]) -> None:
        mask = given.get("attention_mask")
        is_plain = isinstance(mask, Tensor) and mask.ndim == 2
        self._mask = mask.bool() if is_plain else None  # type: ignore[union-attr]

    def _add(self, layer: int, _: nn.Module, given: Any, named: dict[str, Any], output: Any) -> Any:
        x = given[0] if given else named["hidden_states"]
        memory, mask = self.memories[str(layer)], self._mask
        mask = None if mask is None else mask[:, -x.shape[1] :].to(x.device)
        if mask is not None and mask.shape != x.shape[:2]:
            mask = None
        handed = (*given, *named.values())  # some hand their cache on by name, some by place
        past = next((one for one in handed if hasattr(one, "get_seq_length")), None)
        state = self._state(layer, past, x)
        more = memory(x, token_mask=mask, cache=state)
        if isinstance(output, tuple):
            return (output[0] + more, *output[1:])
        return output + more

    def _state(self, layer: int, past: Any, x: Tensor) -> MemoryState | None:
        """What the tokens before have written; None where there are none to go on from."""
        memory = self.memories[str(layer)].memory
        if past is None or not isinstance(memory, SequenceMemory):
            return None
        states = _states(past)
        if torch.is_grad_enabled():  # as in training, where a cache is made and not gone on with
            if past.get_seq_length(layer) > x.shape[1]:
                got = checks.Words("a call that records gradients")
                where = "add_memory"
                checks.reject(where, "past_key_values", "be gone on with under no_grad()", got)
            return None
        if layer not in states:
            if past.get_seq_length(layer) > x.shape[1]:
                got = checks.Words("one that was begun without the memory, or with gradients")
                checks.reject("add_memory", "past_key_values", "hold all that was told", got)
            states[layer] = memory.new_cache(len(x))
        return states[layer]


def add_memory(
    model: nn.Module,
    layers: Sequence[int],
    *,
    kind: str = "sequence",
    n_heads: int | None = None,
    freeze: bool = True,
    sequence: Any = None,
    n_locations: int = 99_856,
    top_k: int = 32,
    seed: int = 0,
) -> AddedMemory:
    """Give layers of a pretrained Hugging Face decoder a memory each, behind a gate.

    What a memory finds for the input of a layer is added to the layer's output, times a gate that
    begins at zero: at first the model gives exactly what it gave before. Its own parameters are
    frozen; `parameters()` of what comes back is what there is to train. It works with `generate`:
    what a text has written stays with the model's own cache.

    Args:
        model: GPT-2, Llama, or any other decoder whose layers stand in one `ModuleList`, as many
            as its `config.num_hidden_layers`.
        layers: Which ones, counted from 0.
        kind: "sequence" for memories that the text writes, "sdm" for learned ones.
        n_heads: Heads of a memory; as many as the attention has unless given (4 if learned).
        freeze: Whether the model's own parameters stop learning.
        sequence: Settings of sequence memories, a `SequenceConfig` or a dictionary.
        n_locations: Hard locations of a learned memory, a square.
        top_k: Hard locations that a head of a learned memory activates.
        seed: Of the first addresses.

    Returns:
        The memories. `save` and `load_memory` keep them apart from the model.

    Raises:
        ArgumentError: if the model is no such decoder, has memories already, or a layer or a
            setting is out of range.

    Examples:
        ::

            model = AutoModelForCausalLM.from_pretrained("gpt2")
            added = add_memory(model, layers=[4, 8])
            optimiser = torch.optim.AdamW(added.parameters(), lr=1e-3)

    **Source:** Kanerva, *Sparse Distributed Memory* (1988), for the memory.
    """
    where = "add_memory"
    stack, blocks, width = _found(where, model)
    chosen = _checked_layers(where, layers, blocks)
    checks.one_of(where, "kind", kind, MEMORY_KINDS)
    if n_heads is None:
        n_heads = 4 if kind == "sdm" else _config(model).num_attention_heads
    settings: dict[str, Any] = {"kind": kind, "dim": width, "n_heads": n_heads, "seed": seed}
    if kind == "sequence":
        settings["sequence"] = asdict(SequenceConfig.of({} if sequence is None else sequence))
    else:
        settings |= {"n_locations": n_locations, "top_k": top_k}
    return _added(model, stack, blocks, chosen, settings, freeze)


def load_memory(
    model: nn.Module, path: str | os.PathLike[str], *, freeze: bool = True
) -> AddedMemory:
    """Give a model the memories that another one, of the same make, was trained with.

    Args:
        model: As for `add_memory`.
        path: What `AddedMemory.save` wrote.
        freeze: Whether the model's own parameters stop learning.

    Returns:
        The memories.

    Raises:
        ArgumentError: if the model is no such decoder, or has memories in these layers.
        StoreError: if the file is missing, damaged, newer, or of a model of another shape.
    """
    where = "load_memory"
    stack, blocks, width = _found(where, model)
    config, tensors = load_tensors(path, _KIND)
    layers, settings = config["layers"], config["settings"]
    if settings["dim"] != width or max(layers) >= len(blocks):
        raise StoreError(
            f"cannot read {path}: it is of a model {settings['dim']} wide with at least "
            f"{max(layers) + 1} layers, this one is {width} wide and has {len(blocks)}"
        )
    chosen = _checked_layers(where, layers, blocks)
    added = _added(model, stack, blocks, chosen, settings, freeze)
    shapes = {name: tensor.shape for name, tensor in added.memories.state_dict().items()}
    try:
        check_state(str(path), shapes, tensors)
    except StoreError:
        added.remove()
        raise
    added.memories.load_state_dict(tensors)
    return added


def _added(
    model: nn.Module,
    stack: nn.Module,
    blocks: nn.ModuleList,
    layers: Sequence[int],
    settings: Mapping[str, Any],
    freeze: bool,
) -> AddedMemory:
    memories = {}
    for layer in layers:
        weight = next(blocks[layer].parameters())
        made = GatedMemory(settings["dim"], _memory(settings, layer))
        dtype = torch.promote_types(weight.dtype, torch.float32)
        memories[layer] = made.to(weight.device, dtype)
    if freeze:
        before = [one for one in model.modules() if isinstance(one, GatedMemory)]
        model.requires_grad_(False)
        for one in before:
            one.requires_grad_(True)
    added = AddedMemory(memories, settings)
    added.attach(stack, list(blocks))
    return added


def _memory(settings: Mapping[str, Any], layer: int) -> SDMLayer | SequenceMemory:
    dim, seed = settings["dim"], settings["seed"] + layer
    if settings["kind"] == "sequence":
        own = dict(settings["sequence"])
        n_heads = own.pop("n_heads") or settings["n_heads"]
        return SequenceMemory(dim, n_heads, **own, seed=seed)
    decoder = ProductKeys(
        dim, settings["n_locations"], n_heads=settings["n_heads"], top_k=settings["top_k"],
        learned=True, seed=seed,
    )  # fmt: skip
    return SDMLayer(dim, decoder)


def _config(model: Any) -> Any:
    """The settings of a model's text part."""
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _found(where: str, model: Any) -> tuple[nn.Module, nn.ModuleList, int]:
    """The module that calls the layers, the layers, and how wide a token is."""
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        checks.reject(where, "model", "be a decoder of transformers", type(model).__name__)
    config = _config(model)
    n, width = (getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size"))
    pairs = ((stack, blocks) for stack in model.modules() for blocks in stack.children())
    for stack, blocks in pairs:  # noqa: B007 used after the loop
        if isinstance(blocks, nn.ModuleList) and len(blocks) == n and width:
            break
    else:
        expected = "hold its layers in one ModuleList, as many as `config.num_hidden_layers`"
        checks.reject(where, "model", expected, type(model).__name__)
    return stack, blocks, int(width)


def _checked_layers(where: str, layers: Any, blocks: nn.ModuleList) -> list[int]:
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        checks.reject(where, "layers", "be a list of at least one layer", layers)
    chosen = [checks.integer(where, "layers", one, 0, len(blocks) - 1) for one in layers]
    if len(set(chosen)) < len(chosen):
        checks.reject(where, "layers", "name each layer once", layers)
    for one in chosen:
        if hasattr(blocks[one], _NAME):
            got = checks.Words(f"layer {one}, which has one")
            checks.reject(where, "layers", "name layers without a memory", got)
    return chosen


def _states(past: Any) -> dict[int, MemoryState]:
    """What memories have written, kept with a model's own cache and changed as that is."""
    found: dict[int, MemoryState] | None = getattr(past, _STATES, None)
    if found is None:
        found = {}
        setattr(past, _STATES, found)
        past.reorder_cache = partial(_chosen, found, past.reorder_cache)
        past.batch_select_indices = partial(_chosen, found, past.batch_select_indices)
        past.batch_repeat_interleave = partial(_repeated, found, past.batch_repeat_interleave)
        past.reset = partial(_emptied, found, past.reset)
        past.crop = _kept_whole
    return found


def _chosen(found: dict[int, Any], own: Any, rows: Tensor) -> None:
    own(rows)
    for layer, state in found.items():
        found[layer] = state.select(rows.tolist())


def _repeated(found: dict[int, Any], own: Any, repeats: int) -> None:
    own(repeats)
    for layer, state in found.items():
        rows = torch.arange(state.batch).repeat_interleave(repeats)
        found[layer] = state.select(rows.tolist())


def _emptied(found: dict[int, Any], own: Any) -> None:
    own()
    found.clear()


def _kept_whole(*_: Any) -> None:
    raise ArgumentError(
        "add_memory: a sequence memory cannot take back what a text has written; generate without "
        "an assistant model"
    )

"""Give a pretrained decoder memories: they begin as nothing at all, and train alone."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn

from pentti import checks
from pentti.decoders import ProductKeys
from pentti.errors import ArgumentError, StoreError
from pentti.nn.config import MEMORY_KINDS
from pentti.nn.memory_state import MemoryState
from pentti.nn.pretrained import check_state
from pentti.nn.retrofit_calls import Call, past_of, written_states
from pentti.nn.sdm import SDMLayer
from pentti.nn.sequence import SequenceMemory
from pentti.nn.sequence_config import SequenceConfig
from pentti.persistence import load_tensors, save_tensors

__all__ = ["AddedMemory", "GatedMemory", "add_memory", "load_memory"]

_KIND = "added memory"
_NAME = "pentti_memory"
_LARGEST_SEED = 2**63 - 1


class GatedMemory(nn.Module):
    """What a memory adds to the output of a layer: nothing at first, then what its gate lets in.

    It stays in float32 at least, whatever the model that it is in is made to.

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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GatedMemory:
        """What `to`, `half` and the like go by."""

        def applied(x: Tensor) -> Tensor:
            changed = fn(x)
            if not changed.is_floating_point() or changed.dtype == x.dtype:
                return changed
            return x.to(changed.device, torch.promote_types(changed.dtype, torch.float32))

        super()._apply(applied, recurse)  # type: ignore[no-untyped-call]
        return self


class AddedMemory(nn.Module):
    """The memories that `add_memory` has given a model: what is trained, and what is saved.

    The model trains and moves them as its own, but its `state_dict`, and what is saved of it, are
    those of the bare model.

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
        self._mark = uuid4().hex  # a cache may have been written by memories that were removed
        self._hooks: list[Any] = []
        self._owners: list[nn.Module] = []
        self._call = Call()

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
        names = tuple(inspect.signature(stack.forward).parameters)
        note = partial(self._note_call, names)
        self._hooks = [stack.register_forward_pre_hook(note, with_kwargs=True)]
        self._owners = [layers[layer] for layer in self.layers]
        for name, owner in zip(self.memories, self._owners, strict=True):
            setattr(owner, _NAME, self.memories[name])
            self._hooks += [
                owner.register_forward_hook(partial(self._add, name), with_kwargs=True),
                owner.register_state_dict_post_hook(_leave_out),
                owner.register_load_state_dict_post_hook(_do_not_miss),
            ]

    def _note_call(self, names: Sequence[str], _: nn.Module, given: Any, named: Any) -> None:
        self._call = Call.of(names, given, named)

    def _add(self, name: str, _: nn.Module, given: Any, named: dict[str, Any], output: Any) -> Any:
        x = given[0] if given else named["hidden_states"]
        state = self._state(name, past_of((*given, *named.values())), len(x))
        memory, mask = self.memories[name], self._call.tokens(x)
        more = memory(x, token_mask=mask) if state is None else _go_on(memory, x, mask, state)
        if isinstance(output, tuple | list):
            return type(output)((output[0] + more, *output[1:]))
        return output + more

    def _state(self, name: str, past: Any, batch: int) -> MemoryState | None:
        """What the tokens before have written; None where there are none to go on from."""
        memory = self.memories[name].memory
        if past is None or not isinstance(memory, SequenceMemory):
            return None
        where, argument = "add_memory", "past_key_values"
        is_begun = bool(self._call.n_before > 0)
        if torch.is_grad_enabled():  # as in training, where a cache is made and not gone on with
            if is_begun:
                got = checks.Words("a call that records gradients")
                checks.reject(where, argument, "be gone on with under no_grad()", got)
            return None
        states, key = written_states(past), (self._mark, name)
        if key not in states:
            if is_begun:
                got = checks.Words("one that was begun without the memory, or with gradients")
                checks.reject(where, argument, "hold all that was told", got)
            states[key] = memory.new_cache(batch)
        return states[key]


def add_memory(
    model: nn.Module,
    layers: Sequence[int],
    *,
    kind: str = "sequence",
    n_heads: int | None = None,
    freeze: bool = True,
    sequence: Any = None,
    n_locations: int | None = None,
    top_k: int | None = None,
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
            Not beside `sequence` settings that have it.
        freeze: Whether the model's own parameters stop learning.
        sequence: Settings of sequence memories, a `SequenceConfig` or a dictionary.
        n_locations: Hard locations of a learned memory, a square; 99,856 unless given.
        top_k: Hard locations that a head of a learned memory activates; 32 unless given.
        seed: Of the first addresses.

    Returns:
        The memories. `save` and `load_memory` keep them apart from the model.

    Raises:
        ArgumentError: if the model is no such decoder, has memories already, a layer or a setting
            is out of range, or a setting is one of the other kind of memory.

    Examples:
        ::

            model = AutoModelForCausalLM.from_pretrained("gpt2")
            added = add_memory(model, layers=[4, 8])
            optimiser = torch.optim.AdamW(added.parameters(), lr=1e-3)

    **Source:** Kanerva, *Sparse Distributed Memory* (1988), for the memory.
    """
    where = "add_memory"
    checks.one_of(where, "kind", kind, MEMORY_KINDS)
    freeze = checks.flag(where, "freeze", freeze)
    stack, blocks, width = _found(where, model)
    chosen = _checked_layers(where, layers, blocks)
    seed = checks.integer(where, "seed", seed, 0, _LARGEST_SEED - len(blocks))
    settings: dict[str, Any] = {"kind": kind, "dim": width, "seed": seed}
    sizes = {"n_locations": n_locations, "top_k": top_k}
    if kind == "sequence":
        _leave(where, sizes, kind)
        own = SequenceConfig.of({} if sequence is None else sequence)
        if own.n_heads is not None and n_heads is not None:
            checks.reject(where, "n_heads", "be left out where `sequence` has it", n_heads)
        settings["n_heads"] = own.n_heads or _n_heads(where, model, n_heads)
        settings["sequence"] = asdict(own)
    else:
        _leave(where, {"sequence": sequence}, kind)
        given = {"n_heads": n_heads, **sizes}
        learned = {"n_heads": 4, "n_locations": 99_856, "top_k": 32}
        settings |= learned | {name: size for name, size in given.items() if size is not None}
    memories = _memories(blocks, chosen, settings)
    return _attached(model, stack, blocks, AddedMemory(memories, settings), freeze)


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
    freeze = checks.flag(where, "freeze", freeze)
    stack, blocks, width = _found(where, model)
    config, tensors = load_tensors(path, _KIND)
    layers, settings = _read(path, config)
    if settings["dim"] != width or max(layers) >= len(blocks):
        raise StoreError(
            f"cannot read {path}: it is of a model {settings['dim']} wide with at least "
            f"{max(layers) + 1} layers, this one is {width} wide and has {len(blocks)}"
        )
    chosen = _checked_layers(where, layers, blocks)
    try:
        added = AddedMemory(_memories(blocks, chosen, settings), settings)
    except ArgumentError as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    shapes = {name: tensor.shape for name, tensor in added.memories.state_dict().items()}
    check_state(str(path), shapes, tensors)
    added.memories.load_state_dict(tensors)
    return _attached(model, stack, blocks, added, freeze)


def _read(path: str | os.PathLike[str], config: Any) -> tuple[list[int], dict[str, Any]]:
    """The layers and the settings of a file, of today's names and kinds."""
    try:
        layers, settings = config["layers"], dict(config["settings"])
        checks.one_of("it", "kind", settings["kind"], MEMORY_KINDS)
        is_text = settings["kind"] == "sequence"
        own = {"sequence"} if is_text else {"n_locations", "top_k"}
        if set(settings) != {"kind", "dim", "n_heads", "seed"} | own:
            raise KeyError("settings")
        for name in {"dim", "n_heads", "n_locations", "top_k"} & set(settings):
            checks.count("it", name, settings[name])
        checks.integer("it", "seed", settings["seed"], 0, _LARGEST_SEED)
        if is_text:
            settings["sequence"] = asdict(SequenceConfig.of(settings["sequence"]))
        for layer in layers:
            checks.integer("it", "layers", layer, 0)
        if not layers or len(set(layers)) < len(layers):
            raise KeyError("layers")
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"cannot read {path}: it is damaged, or of another pentti") from error
    return layers, settings


def _memories(
    blocks: nn.ModuleList, layers: Sequence[int], settings: Mapping[str, Any]
) -> dict[int, GatedMemory]:
    memories = {}
    for layer in layers:
        weight = next(blocks[layer].parameters())
        made = GatedMemory(settings["dim"], _memory(settings, layer)).train(blocks[layer].training)
        memories[layer] = made.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
    return memories


def _attached(
    model: nn.Module, stack: nn.Module, blocks: nn.ModuleList, added: AddedMemory, freeze: bool
) -> AddedMemory:
    if freeze:
        memories = [one for one in model.modules() if isinstance(one, GatedMemory)]
        kept = {parameter for one in memories for parameter in one.parameters()}
        for parameter in set(model.parameters()) - kept:
            parameter.requires_grad_(False)
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


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _go_on(memory: GatedMemory, x_BLD: Tensor, mask: Tensor | None, state: MemoryState) -> Tensor:
    """As the memory itself, never compiled: a graph writes over what it gave the time before."""
    more: Tensor = memory(x_BLD, token_mask=mask, cache=state)
    return more


def _leave_out(_: nn.Module, state: dict[str, Any], prefix: str, __: Any) -> None:
    """Keep what is a memory's out of what is told of a layer's state."""
    for name in [name for name in state if name.startswith(f"{prefix}{_NAME}.")]:
        del state[name]


def _do_not_miss(_: nn.Module, odd: Any) -> None:
    """A layer's state is whole without a memory."""
    odd.missing_keys[:] = [name for name in odd.missing_keys if f"{_NAME}." not in name]


def _leave(where: str, others: Mapping[str, Any], kind: str) -> None:
    """Refuse settings of the other kind of memory."""
    for name, value in others.items():
        if value is not None:
            checks.reject(where, name, f"be left out where `kind` is {kind!r}", value)


def _n_heads(where: str, model: Any, given: Any) -> int:
    if given is None:
        given = getattr(_config(model), "num_attention_heads", None)
        if not isinstance(given, int):
            expected = "be given, as the model's settings do not tell it"
            checks.reject(where, "n_heads", expected, given)
    return checks.count(where, "n_heads", given)


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
    pairs = [
        (stack, blocks)
        for stack in model.modules()
        for blocks in stack.children()
        if isinstance(blocks, nn.ModuleList) and len(blocks) == n
    ]
    if not pairs or width is None:
        expected = "hold its layers in one ModuleList, as many as `config.num_hidden_layers`"
        checks.reject(where, "model", expected, type(model).__name__)
    decoders = [(stack, blocks) for stack, blocks in pairs if _looks_back(model, blocks)]
    if not decoders or getattr(model.config, "is_encoder_decoder", False):
        expected = "be a decoder, no token of which sees a later one"
        checks.reject(where, "model", expected, type(model).__name__)
    return *decoders[0], int(width)


def _looks_back(model: Any, blocks: nn.ModuleList) -> bool:
    """Whether layers are a decoder's, as far as they say; cross-attention sees all in one, too."""
    config = _config(model)
    if not getattr(config, "is_causal", True) or getattr(config, "attn_type", "") == "bi":
        return False
    flags = [
        getattr(one, "is_causal", getattr(one, "is_decoder", None)) for one in blocks.modules()
    ]
    told = [flag for flag in flags if isinstance(flag, bool)]
    if told:
        return any(told)
    if not hasattr(model, "can_generate"):
        return False
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return model.can_generate() or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING


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

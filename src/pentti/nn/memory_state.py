"""What a sequence memory has written so far: it goes on from there, in a minute or in a year."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from pentti import checks
from pentti.errors import StoreError
from pentti.kernels import hashing
from pentti.nn.packing import check_packed, key_type
from pentti.persistence import load_tensors, save_tensors

__all__ = ["MemoryState"]

_KIND = "sequence memory"
_SETTINGS = ("n_heads", "n_locations", "width", "top_k", "max_locations", "forget", "writer")
_STAMP_BYTES = 8
FORGET = ("oldest", "least")
"""What goes first where room is bounded: what was written longest ago, or least."""


class MemoryState:
    """What a `SequenceMemory` has written for a batch of sequences.

    It holds the locations that were touched, and no others: however many there are, memory and
    time go by those. The layer changes it in place and gives it back; `clone` it to keep what it
    was.

    Args:
        batch: Number of sequences, or users, B.
        n_heads: Heads, H.
        n_locations: Hard locations of each head, M, at most 2^40.
        width: Width of a head's values, D.
        top_k: Locations that a head activates, K.
        max_locations: Most touched locations that a head keeps; None for as many as are touched.
        forget: Which locations go first beyond that: "oldest", those written longest ago, or
            "least", those that hold the least evidence.
        writer: What the layer that writes it is like; states of others do not mix with it.
        dtype: Of the contents, float32 or float64.
        device: Where it is.

    Raises:
        ArgumentError: if a size is out of range.

    Examples:
        >>> from pentti.nn import SequenceMemory
        >>> layer = SequenceMemory(16, 2, n_locations=256, top_k=4).eval()
        >>> state = layer.new_cache(1)
        >>> with torch.no_grad():
        ...     for token in torch.randn(10, 1, 1, 16):
        ...         output = layer(token, state).output
        >>> state.n_tokens.tolist(), state.n_touched.shape
        ([10], torch.Size([1, 2]))
    """

    def __init__(
        self,
        batch: int,
        n_heads: int,
        n_locations: int,
        width: int,
        top_k: int,
        *,
        max_locations: int | None = None,
        forget: str = "oldest",
        writer: str = "",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        where = "MemoryState"
        self.batch = checks.integer(where, "batch", batch, 0)
        self.n_heads = checks.count(where, "n_heads", n_heads)
        self.n_locations = checks.integer(where, "n_locations", n_locations, 1, hashing.MOST)
        self.width = checks.count(where, "width", width)
        self.top_k = checks.integer(where, "top_k", top_k, 1, self.n_locations)
        if max_locations is not None:
            max_locations = checks.integer(where, "max_locations", max_locations, self.top_k)
        self.max_locations = max_locations
        checks.one_of(where, "forget", forget, FORGET)
        self.forget, self.writer = forget, writer
        if dtype not in (torch.float32, torch.float64):
            checks.reject(where, "dtype", "be torch.float32 or torch.float64", dtype)
        most = ((1 << 63) - 1) // (self.n_heads * self.n_locations)
        checks.integer(where, "batch", self.batch, 0, most)  # all are numbered together, in int64
        n = self.batch * self.n_heads
        self.n_tokens = torch.zeros(self.batch, dtype=torch.int64, device=device)
        """How many tokens each sequence has had, int64 (B,)."""
        self.used = torch.zeros(n, dtype=torch.int64, device=device)
        self.keys = torch.zeros((n, 0), dtype=torch.int64, device=device)
        """The location of each row of the tables, int64 (B · H, room)."""
        n_slots = hashing.capacity(self.n_locations, 0)
        self.index = torch.full((n, n_slots), -1, dtype=torch.int32, device=device)
        """How the row of a location is found, int32 (B · H, slots)."""
        self.contents = torch.zeros((n, 0, self.width), dtype=dtype, device=device)
        self.evidence = torch.zeros((n, 0), dtype=dtype, device=device)
        self.stamps = torch.zeros((n, 0), dtype=torch.int64, device=device)
        self.scale = torch.zeros(n, dtype=dtype, device=device)
        """Natural logarithm of what contents and evidence are to be multiplied with."""
        shape = (self.batch, self.n_heads, self.top_k)
        self.last_locations = torch.zeros(shape, dtype=torch.int64, device=device)
        self.last_weights = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the contents."""
        return self.contents.dtype

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.contents.device

    @property
    def room(self) -> int:
        """Locations that there is memory for, in each head."""
        return self.contents.shape[1]

    @property
    def n_touched(self) -> Tensor:
        """How many locations hold something, int64 (B, H)."""
        return self.used.view(self.batch, self.n_heads).clone()

    @property
    def fullness(self) -> Tensor:
        """Touched locations over all, (B, H): near 1, matches drown among chance overlaps."""
        return self.n_touched / self.n_locations

    @property
    def size_bytes(self) -> int:
        """Memory held, spare room and the index included."""
        return sum(x.numel() * x.element_size() for x in _tensors(self).values())

    @property
    def touched_bytes(self) -> int:
        """What touched locations take without an index: nearly all that a saved state takes."""
        row = self.contents.element_size() * (self.width + 1) + _STAMP_BYTES
        return int(self.used.sum()) * (row + key_type(self.n_locations).itemsize)

    def locations(self, sequence: int, head: int) -> Tensor:
        """Which locations of a head hold something, ascending.

        Args:
            sequence: Which of the batch.
            head: Which head.

        Returns:
            int64 tensor.

        Raises:
            ArgumentError: if there is no such sequence or head.
        """
        n = self._row("locations", sequence, head)
        return self.keys[n, : int(self.used[n])].sort().values

    def table(self, sequence: int, head: int) -> tuple[Tensor, Tensor]:
        """Contents and evidence of the touched locations of a head, in the order of `locations`.

        Args:
            sequence: Which of the batch.
            head: Which head.

        Returns:
            Copies, of shapes (n, D) and (n,).

        Raises:
            ArgumentError: if there is no such sequence or head.
        """
        n, scale = self._row("table", sequence, head), self._left[:, None]
        rows = self.keys[n, : int(self.used[n])].argsort()
        return self.contents[n, rows] * scale[n], self.evidence[n, rows] * scale[n]

    def reserve(self, room: int) -> None:
        """Make room for so many locations in each head, at least; what is there stays.

        Args:
            room: Locations.
        """
        room = min(room, self.n_locations)
        if room <= self.room:
            return
        room = min(self.n_locations, max(room, 2 * self.room))
        vars(self).update(vars(_widened(self, room)))

    def rows(self, locations: Tensor) -> Tensor:
        """The row of each location in `contents`; −1 for one that was never written.

        Args:
            locations: int64 (B · H, …).

        Returns:
            int64 tensor of the same shape.
        """
        owners, flat = _owners(locations), locations.flatten()
        found = hashing.find(self.index, self.keys, self.n_locations, owners, flat)
        return found.view(locations.shape)

    def touch(self, locations: Tensor, wanted: Tensor) -> None:
        """Give a row to each location that is written for the first time.

        Args:
            locations: int64 (B · H, …).
            wanted: Which of them are written, of the same shape.
        """
        kept = wanted.flatten()
        both = _owners(locations)[kept] * self.n_locations + locations.flatten()[kept]
        both = both.unique()
        owners, new = both // self.n_locations, both % self.n_locations
        is_new = hashing.find(self.index, self.keys, self.n_locations, owners, new) < 0
        owners, new = owners[is_new], new[is_new]
        counts = torch.bincount(owners, minlength=len(self.used))
        first = self.used - (counts.cumsum(0) - counts)
        rows = torch.arange(len(new), device=self.device) + first[owners]
        if len(self.used):
            self.reserve(int((self.used + counts).max()))
        self.keys[owners, rows] = new
        hashing.insert(self.index, self.n_locations, owners, new, rows)
        self.used = self.used + counts

    def note(self, locations: Tensor, wanted: Tensor, times: Tensor) -> None:
        """Note when locations were written, and forget some where there are too many.

        Args:
            locations: int64 (B · H, L, K).
            wanted: Which of them were written, of the same shape.
            times: When, int64 (B · H, L).
        """
        if self.max_locations is None or not locations.numel() or not self.room:
            return
        rows = self.rows(locations).clamp_min(0).flatten(1)
        when = torch.where(wanted, times[..., None], 0).flatten(1)
        self.stamps.scatter_reduce_(1, rows, when, "amax")
        self._forget()

    def _forget(self) -> None:
        """Where a table is too full, keep its youngest, or fullest, locations, and some room."""
        if self.max_locations is None:
            return
        full = (self.used > self.max_locations).nonzero()[:, 0]
        if not len(full):
            return
        n_kept = self.max_locations - self.max_locations // 8
        worth = self.stamps if self.forget == "oldest" else self.evidence.detach().abs()
        worth = torch.where(self._held()[full], worth[full], -1)
        kept = worth.argsort(descending=True, stable=True)[:, :n_kept].sort().values
        for name in _TABLES:
            old = getattr(self, name)
            new = torch.zeros_like(old[full])
            new[:, :n_kept] = old[full[:, None], kept]
            setattr(self, name, _replaced(old, full, new))
        self.used[full] = n_kept
        index = hashing.build(self.keys[full], self.used[full], self.n_locations)
        self.index = _replaced(self.index, full, index)
        if self.room > 4 * self.max_locations:  # a long call needed more for a while
            vars(self).update(vars(_narrowed(self, 2 * self.max_locations)))

    def rescale(self) -> None:
        """Multiply the contents with what decay has left of them, so that numbers stay in range."""
        self.contents = self.contents * self._left[:, None, None]
        self.evidence = self.evidence * self._left[:, None]
        self.scale = torch.zeros_like(self.scale)

    def detach(self) -> MemoryState:
        """Cut the history of gradients, in place.

        Returns:
            This state.
        """
        for name, tensor in _tensors(self).items():
            setattr(self, name, tensor.detach())
        return self

    def clone(self) -> MemoryState:
        """A copy that shares nothing with this one.

        Returns:
            A new state.
        """
        return _with(self, {name: tensor.clone() for name, tensor in _tensors(self).items()})

    def to(self, device: torch.device | str) -> MemoryState:
        """The state on a device.

        Args:
            device: Where to.

        Returns:
            A new state there, which shares nothing with this one.
        """
        moved = {name: x.to(device, copy=True) for name, x in _tensors(self).items()}
        return _with(self, moved)

    def clear(self, sequence: int | None = None) -> None:
        """Forget everything, of one sequence or of all.

        Args:
            sequence: Which of the batch; None for all.

        Raises:
            ArgumentError: if there is no such sequence.
        """
        low, high = 0, self.batch
        if sequence is None:
            self.used = torch.zeros_like(self.used)
            vars(self).update(vars(_narrowed(self, 0)))
        else:
            low = checks.integer("MemoryState.clear", "sequence", sequence, 0, self.batch - 1)
            high = low + 1
        chosen = torch.arange(low, high, device=self.device)
        heads = torch.arange(low * self.n_heads, high * self.n_heads, device=self.device)
        for name, tensor in _tensors(self).items():
            rows, empty = chosen if name in _BATCHED else heads, -1 if name == "index" else 0
            setattr(self, name, _replaced(tensor, rows, torch.full_like(tensor[rows], empty)))

    def select(self, sequences: Sequence[int] | Tensor) -> MemoryState:
        """Some sequences of the batch, in a given order: copies.

        Args:
            sequences: Which ones, as often as wanted.

        Returns:
            A new state with a batch of that size.

        Raises:
            ArgumentError: if there is no such sequence.
        """
        where = "MemoryState.select"
        given = checks.items(where, "sequences", sequences, "integers")
        chosen = [checks.integer(where, "sequences", b, 0, self.batch - 1) for b in given]
        b = torch.tensor(chosen, dtype=torch.int64, device=self.device)
        n = (b[:, None] * self.n_heads + torch.arange(self.n_heads, device=self.device)).flatten()
        return _with(
            self, {name: x[b if name in _BATCHED else n] for name, x in _tensors(self).items()}
        )

    @classmethod
    def stack(cls, states: Iterable[MemoryState]) -> MemoryState:
        """One batch of the sequences of several states, such as one for each user: copies.

        Args:
            states: Of the same settings.

        Returns:
            A new state.

        Raises:
            ArgumentError: if there is none, or settings, types or devices differ.
        """
        where = "MemoryState.stack"
        all_states = checks.items(where, "states", states, "MemoryStates")
        if not all_states:
            checks.reject(where, "states", "hold one state at least", [])
        first = all_states[0]
        for state in all_states:
            MemoryState.check_like(first, where, "states", state)
        room = max(state.room for state in all_states)
        copies = [vars(_widened(state, room)) for state in all_states]
        joined = {name: torch.cat([copy[name] for copy in copies]) for name in _tensors(first)}
        return _with(first, joined)

    def merge(self, other: MemoryState) -> MemoryState:
        """Add what another state has written, sequence by sequence; the other stays as it is.

        Writes add up, so that it does not matter who wrote what first. What an error-correcting
        layer wrote adds up too, and is right where the two wrote to different locations. The
        next write goes where the other's last token pointed. Where there is a bound, it holds, and
        what the other has written counts as the later. What fades has faded in each for itself:
        what this one holds does not fade by the tokens of the other.

        Args:
            other: Of the same settings and batch.

        Returns:
            This state.

        Raises:
            ArgumentError: if settings, type, device or batch differ.
        """
        where = "MemoryState.merge"
        self.check_like(where, "other", other)
        if other.batch != self.batch:
            checks.reject(where, "other", f"have a batch of {self.batch}", other.batch)
        self.rescale()
        held = other._held()
        self.touch(other.keys, held)
        if self.room:
            left = torch.where(held, other._left[:, None], 0)
            rows = self.rows(other.keys).clamp_min(0)
            wide = rows[..., None].expand_as(other.contents)
            self.contents = self.contents.scatter_add(1, wide, other.contents * left[..., None])
            self.evidence = self.evidence.scatter_add(1, rows, other.evidence * left)
            later = self.n_tokens.repeat_interleave(self.n_heads)[:, None]
            stamps = torch.where(held, other.stamps + later, 0)
            self.stamps = self.stamps.scatter_reduce(1, rows, stamps, "amax")
            self._forget()
        spoke = (other.n_tokens > 0)[:, None, None]
        self.last_locations = torch.where(spoke, other.last_locations, self.last_locations)
        self.last_weights = torch.where(spoke, other.last_weights, self.last_weights)
        self.n_tokens = self.n_tokens + other.n_tokens
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the touched locations to a safetensors file, replacing it whole or not at all.

        Args:
            path: File to write.

        Raises:
            StoreError: if it cannot be written.
        """
        save_tensors(path, _KIND, *self.packed())

    def packed(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a file holds of it.

        Returns:
            Its settings, as JSON can hold them, and tensors by name: the touched locations of all
            heads one after another, and the rest as it is.
        """
        held = self._held()
        tensors = {name: getattr(self, name) for name in (*_BATCHED, "used", "scale")}
        tensors |= {name: getattr(self, name)[held] for name in _TABLES}
        tensors["keys"] = tensors["keys"].to(key_type(self.n_locations))
        return {name: getattr(self, name) for name in _SETTINGS}, tensors

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MemoryState:
        """Read what `save` wrote.

        Args:
            path: File to read.

        Returns:
            The state, on the CPU.

        Raises:
            StoreError: if the file is missing, foreign, newer or damaged.
        """
        settings, tensors = load_tensors(path, _KIND)
        try:
            return cls.unpacked(settings, tensors)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise StoreError(f"cannot read {path}: it is damaged, or not a pentti file") from error

    @classmethod
    def unpacked(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> MemoryState:
        """The state of which `packed` made this.

        Args:
            settings: By name.
            tensors: By name; more than are asked for do no harm.

        Returns:
            A new state, on the CPU.

        Raises:
            ValueError: if a tensor is not what the settings ask for.
        """
        state = cls(len(tensors["n_tokens"]), **settings, dtype=tensors["contents"].dtype)
        empty = {name: x for name, x in _tensors(state).items() if name != "index"}
        check_packed(tensors, empty, _TABLES, state.n_locations)
        used = tensors["used"]
        if not isinstance(state.writer, str):
            raise ValueError("writer")
        if len(used):
            state.reserve(int(used.max()))
        vars(state).update({name: tensors[name] for name in empty if name not in _TABLES})
        held = state._held()
        for name in _TABLES:
            table = getattr(state, name)
            table[held] = tensors[name].to(table.dtype)
        state.index = hashing.build(state.keys, used, state.n_locations)
        return state

    def check_like(self, where: str, argument: str, other: Any) -> None:
        """Refuse what is no state of the same sizes, writer, type and device.

        Args:
            where: The public function that was called.
            argument: The argument's name.
            other: What came.

        Raises:
            ArgumentError: if it does not fit.
        """
        if not isinstance(other, MemoryState):
            checks.reject(where, argument, "be a MemoryState", other)
        for name in ("n_heads", "n_locations", "width", "top_k", "dtype", "device", "writer"):
            own, given = getattr(self, name), getattr(other, name)
            if own != given:
                got = checks.Words(f"{given}")
                checks.reject(where, argument, f"have {name} = {own}", got)

    def _row(self, method: str, sequence: Any, head: Any) -> int:
        where = f"MemoryState.{method}"
        b = checks.integer(where, "sequence", sequence, 0, self.batch - 1)
        return b * self.n_heads + checks.integer(where, "head", head, 0, self.n_heads - 1)

    @property
    def _left(self) -> Tensor:
        """What the contents and evidence of each head are to be multiplied with."""
        return self.scale.exp()

    def _held(self) -> Tensor:
        """Which rows of the tables are in use, (B · H, room)."""
        return torch.arange(self.room, device=self.device) < self.used[:, None]

    def __repr__(self) -> str:
        """Its size, and how full it is."""
        return (
            f"MemoryState(batch={self.batch}, n_heads={self.n_heads}, "
            f"n_locations={self.n_locations}, n_touched={int(self.used.sum())})"
        )


_TABLES = ("keys", "contents", "evidence", "stamps")
_BATCHED = ("n_tokens", "last_locations", "last_weights")


def _tensors(state: MemoryState) -> dict[str, Tensor]:
    return {name: x for name, x in vars(state).items() if isinstance(x, Tensor)}


def _with(state: MemoryState, tensors: dict[str, Tensor]) -> MemoryState:
    """A state of the same settings with other tensors."""
    new = object.__new__(MemoryState)
    vars(new).update(vars(state) | tensors)
    new.batch = len(new.n_tokens)
    return new


def _widened(state: MemoryState, room: int) -> MemoryState:
    """A state with room for so many locations, no fewer than it has; shares what it can."""
    wider = {}
    for name in _TABLES:
        old = getattr(state, name)
        wider[name] = old.new_zeros((old.shape[0], room, *old.shape[2:]))
        wider[name][:, : old.shape[1]] = old
    if hashing.capacity(state.n_locations, room) != state.index.shape[1]:
        wider["index"] = hashing.build(wider["keys"], state.used, state.n_locations)
    return _with(state, wider)


def _narrowed(state: MemoryState, room: int) -> MemoryState:
    """A state with room for so many locations, no fewer than are used."""
    narrow = {name: getattr(state, name)[:, :room].clone() for name in _TABLES}
    narrow["index"] = hashing.build(narrow["keys"], state.used, state.n_locations)
    return _with(state, narrow)


def _replaced(old: Tensor, at: Tensor, new: Tensor) -> Tensor:
    """With other rows: in place, unless a history needs it as it was, or torch forbids it."""
    if old.requires_grad or old.is_inference():
        return old.index_copy(0, at, new)
    return old.index_copy_(0, at, new)


def _owners(locations: Tensor) -> Tensor:
    """Of which head each location is, int64 (n,)."""
    heads = torch.arange(len(locations), device=locations.device)
    return heads.repeat_interleave(locations[:1].numel())

"""Binary words as tensors: random, pack, unpack, flip, Hamming distance.

A word is the last dimension of a boolean tensor. Packed, 64 bits share one
`torch.int64`: bit i of a word is bit i % 64 of packed word i // 64, and the
unused high bits of the last packed word are zero.

Shape legend of the whole project: B batch · M hard locations · N address bits ·
U word bits · W 64-bit words of an address · K active (or selected) per location ·
L sequence length.
"""

from __future__ import annotations

import hashlib
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from pentti import checks
from pentti.tensors import as_tensor

__all__ = [
    "WORD",
    "as_bits",
    "flip",
    "hamming_distance",
    "pack",
    "packed_distance",
    "packed_width",
    "popcount",
    "random",
    "random_packed",
    "stream",
    "unpack",
]

WORD = 64
"""Bits in one packed word."""


def packed_width(n_bits: int) -> int:
    """How many 64-bit words hold so many bits.

    Args:
        n_bits: Width of a word in bits, at least 1.

    Returns:
        The number of packed words.

    Raises:
        ArgumentError: if the width is below 1.

    Examples:
        >>> packed_width(1000)
        16
    """
    return -(-checks.count("packed_width", "n_bits", n_bits) // WORD)


def as_bits(
    where: str,
    argument: str,
    value: Any,
    width: int | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """The door: whatever the caller holds, as a boolean tensor of the right width.

    Args:
        where: The public function or class that was called, for the error.
        argument: The argument's name, for the error.
        value: Tensor, NumPy array or nested list of 0/1, of any dtype, shape (…, width).
        width: Bits expected in the last dimension; None accepts any number from 1.
        device: Device expected of a tensor, and given to anything else; None accepts any.

    Returns:
        A boolean tensor of the same shape; the argument itself where it already is one.

    Raises:
        ArgumentError: if it is not made of 0 and 1, has no dimension, has another width or
            lies on another device.
    """
    bits = as_tensor(where, argument, value, device, "bits")
    if bits.ndim == 0:
        _reject_shape(where, argument, width, "a zero-dimensional value")
    if bits.shape[-1] == 0 or (width is not None and bits.shape[-1] != width):
        _reject_shape(where, argument, width, f"shape {tuple(bits.shape)}")
    if bits.dtype == torch.bool:
        return bits
    ones = bits == 1
    strange = ~(ones | (bits == 0))
    if strange.any():
        checks.reject(where, argument, "hold only 0 and 1", bits[strange][0].item())
    return ones


def stream(purpose: str, seed: int) -> torch.Generator:
    """Randomness for one purpose, which no other purpose shares whatever the seeds.

    Args:
        purpose: What it is for, in words.
        seed: Any integer of at least 0.

    Returns:
        A generator on the CPU, the same on every machine.
    """
    digest = hashlib.blake2b(f"{purpose}: {seed}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def random(
    n: int, n_bits: int, *, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Words whose bits are fair coin flips.

    Args:
        n: Number of words.
        n_bits: Bits in each.
        generator: Source of randomness, on the CPU; it moves on.
        device: Where the result goes.

    Returns:
        Boolean tensor of shape (n, n_bits).

    Raises:
        ArgumentError: if a size is out of range.

    Examples:
        >>> random(2, 5, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 5])
    """
    return unpack(random_packed(n, n_bits, generator=generator, device=device), n_bits)


def random_packed(
    n: int, n_bits: int, *, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """The words of `random`, packed: the same seed gives the same bits.

    Args:
        n: Number of words.
        n_bits: Bits in each.
        generator: Source of randomness, on the CPU; it moves on.
        device: Where the result goes.

    Returns:
        int64 tensor of shape (n, ⌈n_bits / 64⌉).

    Raises:
        ArgumentError: if a size is out of range.
    """
    checks.integer("bits.random", "n", n, 0)
    checks.count("bits.random", "n_bits", n_bits)
    packed = torch.empty((n, packed_width(n_bits)), dtype=torch.int64)
    packed.random_(-(2**63), None, generator=generator)
    if n_bits % WORD:
        packed[:, -1] &= (1 << (n_bits % WORD)) - 1
    return packed.to(device)


def pack(bits: Tensor) -> Tensor:
    """Put 64 bits into each int64.

    Args:
        bits: Tensor, array or list of 0/1, shape (…, N).

    Returns:
        int64 tensor of shape (…, ⌈N / 64⌉) on the same device.

    Raises:
        ArgumentError: if the argument is not made of 0 and 1.

    Examples:
        >>> pack(torch.tensor([1, 0, 1, 1]))
        tensor([13])
    """
    bits = as_bits("bits.pack", "bits", bits)
    width = packed_width(bits.shape[-1])
    if bits.device.type == "cpu":
        octets = np.packbits(bits.numpy(), axis=-1, bitorder="little")
        padded = np.zeros((*octets.shape[:-1], 8 * width), dtype=np.uint8)
        padded[..., : octets.shape[-1]] = octets
        return torch.from_numpy(padded.view("<i8"))
    padded_bits = torch.nn.functional.pad(bits, (0, WORD * width - bits.shape[-1]))
    grouped = padded_bits.unflatten(-1, (width, WORD)).to(torch.int64)
    packed: Tensor = (grouped << torch.arange(WORD, device=bits.device)).sum(-1)
    return packed


def unpack(packed: Tensor, n_bits: int) -> Tensor:
    """Undo `pack`.

    Args:
        packed: int64 tensor of shape (…, ⌈n_bits / 64⌉).
        n_bits: Width of the word.

    Returns:
        Boolean tensor of shape (…, n_bits) on the same device.

    Raises:
        ArgumentError: if the argument is not int64 or its width does not fit `n_bits`.

    Examples:
        >>> unpack(torch.tensor([13]), 4).int()
        tensor([1, 0, 1, 1], dtype=torch.int32)
    """
    width = packed_width(n_bits)
    _check_packed("bits.unpack", "packed", packed, width)
    if packed.device.type == "cpu":
        octets = packed.contiguous().numpy().view(np.uint8)
        ones = np.unpackbits(octets, axis=-1, count=n_bits, bitorder="little")
        return torch.from_numpy(ones.view(np.bool_))
    shifts = torch.arange(WORD, device=packed.device)
    return ((packed.unsqueeze(-1) >> shifts) & 1).flatten(-2)[..., :n_bits].bool()


def flip(bits: Tensor, n_flips: int, *, generator: torch.Generator) -> Tensor:
    """A noisy copy: exactly `n_flips` bits of each word, chosen at random, inverted.

    Args:
        bits: Tensor, array or list of 0/1, shape (…, N).
        n_flips: How many bits of each word change, from 0 to N.
        generator: Source of randomness, on the CPU; it moves on.

    Returns:
        Boolean tensor of the same shape; the argument stays as it was.

    Raises:
        ArgumentError: if the bits are not 0/1 or `n_flips` is out of range.

    Examples:
        >>> word = torch.zeros(100, dtype=torch.bool)
        >>> flip(word, 7, generator=torch.Generator().manual_seed(0)).sum()
        tensor(7)
    """
    bits = as_bits("bits.flip", "bits", bits)
    width = bits.shape[-1]
    checks.integer("bits.flip", "n_flips", n_flips, 0, width)
    noise = torch.rand(bits.shape, generator=generator, dtype=torch.float64)
    order = noise.argsort(dim=-1, stable=True)
    chosen: Tensor = (order < n_flips).to(bits.device)
    return bits ^ chosen


def hamming_distance(a: Tensor, b: Tensor) -> Tensor:
    """In how many bits two words differ.

    Args:
        a: Tensor, array or list of 0/1, shape (…, N).
        b: The same, of a shape that broadcasts with `a`.

    Returns:
        int64 tensor of distances, shape (…).

    Raises:
        ArgumentError: if either is not made of 0 and 1, or the widths differ.

    Examples:
        >>> hamming_distance([1, 0, 1], [0, 0, 1])
        tensor(1)
    """
    a = as_bits("bits.hamming_distance", "a", a)
    b = as_bits("bits.hamming_distance", "b", b, width=a.shape[-1], device=a.device)
    return (a ^ b).sum(-1)


def packed_distance(a: Tensor, b: Tensor) -> Tensor:
    """`hamming_distance` of packed words.

    Args:
        a: int64 tensor of shape (…, W), as `pack` gives it.
        b: The same, of a shape that broadcasts with `a`.

    Returns:
        int64 tensor of distances, shape (…).

    Raises:
        ArgumentError: if either is not int64, or the widths differ.
    """
    _check_packed("bits.packed_distance", "a", a, None)
    _check_packed("bits.packed_distance", "b", b, a.shape[-1])
    return popcount(a ^ b).sum(-1)


def popcount(packed: Tensor) -> Tensor:
    """How many bits are set in each int64, by adding neighbours in parallel.

    Args:
        packed: int64 tensor of any shape.

    Returns:
        int64 tensor of the same shape, values 0 to 64.

    Examples:
        >>> popcount(torch.tensor([0, 13, -1]))
        tensor([ 0,  3, 64])
    """
    x = packed - ((packed >> 1) & 0x5555555555555555)
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((x * 0x0101010101010101) >> 56) & 0xFF


def _reject_shape(where: str, argument: str, width: int | None, got: str) -> NoReturn:
    checks.reject(where, argument, f"have shape (…, {width or 'bits'})", checks.Words(got))


def _check_packed(where: str, argument: str, packed: Tensor, width: int | None) -> None:
    if not isinstance(packed, Tensor) or packed.dtype != torch.int64 or packed.ndim == 0:
        checks.reject(where, argument, "be an int64 tensor of packed words", packed)
    if width is not None and packed.shape[-1] != width:
        got = f"shape {tuple(packed.shape)}"
        checks.reject(where, argument, f"have {width} words in its rows", checks.Words(got))

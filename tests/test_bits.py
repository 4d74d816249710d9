import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pentti import bits
from pentti.errors import ArgumentError

# Two words of 100 bits from seed 1988: they may never change, or saved seeds mean other memories.
GOLDEN = [[7085331464594983912, 22076283697], [3061325870940138301, 53954936743]]
WIDTHS = [1, 63, 64, 65, 257, 1000]


@pytest.mark.parametrize("width", WIDTHS)
def test_unpack_undoes_pack(width, generator):
    words = torch.randint(2, (7, width), generator=generator).bool()
    packed = bits.pack(words)
    assert packed.shape == (7, -(-width // 64))
    assert torch.equal(bits.unpack(packed, width), words)


@pytest.mark.parametrize("width", WIDTHS)
def test_bit_i_lies_in_word_i_over_64(width):
    for i in {0, width // 2, width - 1}:
        word = torch.zeros(width, dtype=torch.bool)
        word[i] = True
        packed = bits.pack(word)
        assert [(int(x) >> (i % 64)) & 1 for x in packed][i // 64] == 1
        assert int(bits.popcount(packed).sum()) == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_the_plain_torch_path_packs_alike(width, generator, monkeypatch):
    words = torch.randint(2, (5, width), generator=generator).bool()
    expected = bits.pack(words)

    class OnAnotherDevice(torch.Tensor):
        device = torch.device("meta")

    elsewhere = words.as_subclass(OnAnotherDevice)
    monkeypatch.setattr(torch, "arange", lambda n, cpu_arange=torch.arange, **_: cpu_arange(n))
    packed = bits.pack(elsewhere)
    assert torch.equal(packed.as_subclass(torch.Tensor), expected)
    unpacked = bits.unpack(expected.as_subclass(OnAnotherDevice), width)
    assert torch.equal(unpacked.as_subclass(torch.Tensor), words)


def test_the_same_seed_gives_the_same_bits_everywhere():
    packed = bits.random_packed(2, 100, generator=torch.Generator().manual_seed(1988))
    assert packed.tolist() == GOLDEN
    words = bits.random(2, 100, generator=torch.Generator().manual_seed(1988))
    assert torch.equal(bits.pack(words), packed)


@given(st.integers(1, 200), st.integers(0, 5))
def test_padding_bits_stay_zero(width, n):
    packed = bits.random_packed(n, width, generator=torch.Generator().manual_seed(width))
    assert torch.equal(bits.pack(bits.unpack(packed, width)), packed)


def test_streams_of_different_purposes_have_nothing_in_common():
    ball = bits.stream("hard addresses", 0)
    drawn = bits.random(20, 1000, generator=torch.Generator().manual_seed(0))
    for other in (bits.stream("chance", 0), bits.stream("hard addresses", 1)):
        assert not torch.equal(bits.random(20, 1000, generator=other), drawn)
    assert not torch.equal(bits.random(20, 1000, generator=ball), drawn)
    again = bits.stream("hard addresses", 0)
    assert again.initial_seed() == bits.stream("hard addresses", 0).initial_seed()


def test_random_bits_are_fair(generator):
    n = 200_000
    ones = int(bits.random(200, 1000, generator=generator).sum())
    assert abs(ones - n / 2) < 5 * (n / 4) ** 0.5


@pytest.mark.parametrize("n_flips", [0, 1, 40, 65])
def test_flip_changes_exactly_so_many_bits_and_not_the_argument(n_flips, generator):
    words = bits.random(9, 65, generator=generator)
    before = words.clone()
    noisy = bits.flip(words, n_flips, generator=generator)
    assert torch.equal(words, before)
    assert (bits.hamming_distance(noisy, words) == n_flips).all()


def test_flips_differ_from_row_to_row(generator):
    words = torch.zeros(50, 1000, dtype=torch.bool)
    noisy = bits.flip(words, 100, generator=generator)
    assert len({tuple(row.tolist()) for row in noisy}) == 50


@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_packed_distance_equals_distance(seed, width):
    generator = torch.Generator().manual_seed(seed)
    a, b = bits.random(3, width, generator=generator), bits.random(3, width, generator=generator)
    assert torch.equal(
        bits.packed_distance(bits.pack(a), bits.pack(b)), bits.hamming_distance(a, b)
    )


def test_popcount_of_every_pattern():
    values = [0, 1, -1, 2**62, -(2**63), 2**63 - 1, 0x5555555555555555]
    expected = [bin(v & (2**64 - 1)).count("1") for v in values]
    assert bits.popcount(torch.tensor(values)).tolist() == expected


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int8, torch.int64, torch.float16, torch.float64]
)
def test_bits_of_any_dtype_are_welcome(dtype):
    given_bits = torch.tensor([[0, 1, 1]], dtype=dtype)
    assert bits.as_bits("f", "x", given_bits).tolist() == [[False, True, True]]


READ_ONLY = np.array([0, 1])
READ_ONLY.setflags(write=False)


@pytest.mark.parametrize(
    "given_bits",
    [
        [0, 1],
        (0, 1),
        np.array([0, 1]),
        np.array([0.0, 1.0]),
        np.array([1, 0])[::-1],
        np.array([0, 1], dtype=">i4"),
        np.array([0, 1], dtype=np.longdouble),
        np.array([0, 1], dtype=np.uint64),
        np.array([False, True]),
        READ_ONLY,
        torch.tensor([0.0, 1.0], requires_grad=True),
    ],
    ids=repr,
)
def test_lists_and_arrays_are_welcome(given_bits):
    assert bits.as_bits("f", "x", given_bits).tolist() == [False, True]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor([0.0, 0.5]), r"f: `x` must hold only 0 and 1, got 0\.5$"),
        (torch.tensor([0.0, float("nan")]), r"f: `x` must hold only 0 and 1, got nan$"),
        (torch.tensor([0, 2]), r"f: `x` must hold only 0 and 1, got 2$"),
        (torch.tensor([0, -1]), r"f: `x` must hold only 0 and 1, got -1$"),
        (torch.tensor(1), r"f: `x` must have shape \(…, bits\), got a zero-dimensional value$"),
        (torch.zeros(3, 0), r"f: `x` must have shape \(…, bits\), got shape \(3, 0\)$"),
        (torch.zeros(2, dtype=torch.complex64), "f: `x` must hold bits, got complex numbers"),
        ("01", r"f: `x` must be a tensor, an array or a list of bits, got '01'$"),
        (None, r"f: `x` must be a tensor, an array or a list of bits, got None$"),
        (torch.eye(2).to_sparse(), "f: `x` must hold bits, got a torch.sparse_coo tensor"),
        (np.array(["0", "1"]), "f: `x` must be a tensor, .* got an array of <U1"),
        (np.array([0, 1], dtype=object), "f: `x` must be a tensor, .* got an array of object"),
        ([[0, 1], [0]], r"f: `x` must be a tensor, an array or a list of bits, got \[\[0"),
    ],
)
def test_what_is_no_bits_is_named(value, message):
    with pytest.raises(ArgumentError, match=message):
        bits.as_bits("f", "x", value)


def test_the_width_is_checked():
    with pytest.raises(ArgumentError, match=r"f: `x` must have shape \(…, 4\), got shape \(2, 3\)"):
        bits.as_bits("f", "x", torch.zeros(2, 3), width=4)


def test_bits_on_another_device_are_named():
    with pytest.raises(ArgumentError, match=r"f: `x` must be on cpu, got meta$"):
        bits.as_bits("f", "x", torch.zeros(2, 3, device="meta"), device=torch.device("cpu"))


def test_bad_sizes_are_named(generator):
    with pytest.raises(ArgumentError, match=r"bits\.random: `n` must be at least 0, got -1"):
        bits.random(-1, 5, generator=generator)
    with pytest.raises(ArgumentError, match=r"bits\.random: `n_bits` must be at least 1, got 0"):
        bits.random(1, 0, generator=generator)
    with pytest.raises(ArgumentError, match=r"bits\.flip: `n_flips` must be in \[0, 5\], got 6"):
        bits.flip(torch.zeros(2, 5), 6, generator=generator)
    with pytest.raises(ArgumentError, match=r"bits\.unpack: `packed` must have 2 words in its"):
        bits.unpack(torch.zeros(3, 1, dtype=torch.int64), 100)
    with pytest.raises(ArgumentError, match=r"bits\.unpack: `packed` must be an int64 tensor"):
        bits.unpack(torch.zeros(3, 1), 10)


def test_the_empty_batch_is_no_error(generator):
    nothing = bits.random(0, 70, generator=generator)
    assert bits.pack(nothing).shape == (0, 2)
    assert bits.unpack(bits.pack(nothing), 70).shape == (0, 70)
    assert bits.flip(nothing, 3, generator=generator).shape == (0, 70)
    assert bits.hamming_distance(nothing, nothing).shape == (0,)

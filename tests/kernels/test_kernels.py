"""Every kernel against the plain torch reference, at awkward sizes."""

import subprocess
import sys
import threading

import pytest
import torch

from pentti import bits
from pentti.kernels import cpu, for_device, layout, reference, threads

SIZES = [  # locations, address bits, cues, radius
    (1, 1, 1, 0),
    (7, 63, 5, 28),
    (257, 65, 63, 28),
    (64, 64, 257, 27),
    (1001, 257, 3, 120),
    (3001, 1000, 65, 480),
    (100, 130, 0, 50),
    (100, 130, 9, 130),
    (100, 130, 9, 0),
]
DTYPES = [torch.int8, torch.int16, torch.int32, torch.float32, torch.float64]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("n_locations", "width", "n_cues", "radius"), SIZES)
def test_scan_equals_the_reference(n_locations, width, n_cues, radius, generator):
    tiles = layout.tiled(bits.random_packed(n_locations, width, generator=generator))
    cues = bits.random_packed(n_cues, width, generator=generator)
    expected = reference.hamming_scan(tiles, n_locations, cues, radius, 0.1)
    for probability in (0.0, 0.1, 1.0):  # a wrong hint costs time, never a hit
        assert equal(cpu.hamming_scan(tiles, n_locations, cues, radius, probability), expected)


def test_the_reference_scan_is_the_definition(generator):
    address, cue = (bits.random(n, 70, generator=generator) for n in (40, 6))
    locations, offsets = reference.hamming_scan(
        layout.tiled(bits.pack(address)), 40, bits.pack(cue), 33, 0.1
    )
    for b in range(6):
        bit_pairs = [zip(cue[b].tolist(), address[m].tolist(), strict=True) for m in range(40)]
        near = [m for m, pairs in enumerate(bit_pairs) if sum(x != y for x, y in pairs) <= 33]
        assert locations[offsets[b] : offsets[b + 1]].tolist() == near
    assert len(locations) > 0


def test_buffers_too_small_are_grown(generator):
    tiles = layout.tiled(bits.random_packed(9001, 20, generator=generator))
    cues = bits.random_packed(5, 20, generator=generator)
    locations, offsets = cpu.hamming_scan(tiles, 9001, cues, 20, 0.0)
    assert offsets.tolist() == [9001 * i for i in range(6)]
    assert torch.equal(locations, torch.arange(9001).repeat(5))


@pytest.mark.parametrize(("n_locations", "width", "n_cues", "radius"), SIZES)
def test_match_equals_the_reference(n_locations, width, n_cues, radius, generator):
    n_selected = min(width, 4)
    chosen = torch.rand(n_locations, width, generator=generator).argsort(1)[:, :n_selected]
    literals = (2 * chosen + torch.randint(2, chosen.shape, generator=generator)).int()
    cues = bits.random_packed(n_cues, width, generator=generator)
    expected = reference.literal_match(literals, width, cues)
    assert equal(cpu.literal_match(literals, width, cues), expected)
    if n_cues and n_locations > 100:
        assert len(expected[0]) > 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 63, 65, 257])
def test_add_and_sum_equal_the_reference(dtype, width, generator):
    tiles = layout.tiled(bits.random_packed(301, 65, generator=generator))
    cues = bits.random_packed(65, 65, generator=generator)
    active = cpu.hamming_scan(tiles, 301, cues, 29, 0.2)
    contents = torch.randint(-128, 128, (301, width), generator=generator).to(dtype)
    data = 2 * torch.randint(2, (65, width), generator=generator) - 1
    data = data.to(dtype if dtype.is_floating_point else torch.int8)
    ours, theirs = contents.clone(), contents.clone()
    cpu.add_rows(ours, *active, data)
    reference.add_rows(theirs, *active, data)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, contents)
    sums = cpu.sum_rows(ours, *active)
    assert sums.dtype == (torch.float64 if dtype.is_floating_point else torch.int64)
    assert torch.equal(sums, reference.sum_rows(theirs, *active))
    assert torch.equal(cpu.majority_rows(ours, *active), sums > 0)
    assert torch.equal(reference.majority_rows(ours, *active), sums > 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_equal_the_reference(dtype, generator):
    locations, offsets = torch.tensor([0, 2, 1, 2, 4]), torch.tensor([0, 2, 2, 5])
    weights = torch.rand(5, generator=generator, dtype=torch.float64)
    contents = torch.randint(-9, 9, (5, 11), generator=generator).to(dtype)
    ours = cpu.sum_rows(contents, locations, offsets, weights)
    theirs = reference.sum_rows(contents, locations, offsets, weights)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert (ours[1] == 0).all()
    if dtype.is_floating_point:
        data = torch.rand(3, 11, generator=generator, dtype=torch.float64).to(dtype)
        one, other = contents.clone(), contents.clone()
        cpu.add_rows(one, locations, offsets, data, weights)
        reference.add_rows(other, locations, offsets, data, weights)
        torch.testing.assert_close(one, other)
        assert not torch.equal(one, contents)


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("kernels", [cpu, reference])
def test_counters_stop_at_both_ends(dtype, kernels):
    limits = torch.iinfo(dtype)
    contents = torch.tensor([[limits.max, limits.min, limits.max - 1]], dtype=dtype)
    step = torch.tensor([[1, -1, 1], [1, -1, 1]], dtype=torch.int8)
    kernels.add_rows(contents, torch.tensor([0, 0]), torch.tensor([0, 1, 2]), step)
    assert contents.tolist() == [[limits.max, limits.min, limits.max]]


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_sums_do_not_overflow(dtype):
    n = 70_000
    extreme = torch.iinfo(dtype).min
    contents = torch.full((2, 3), extreme, dtype=dtype)
    locations, offsets = torch.ones(n, dtype=torch.int64), torch.tensor([0, n])
    assert cpu.sum_rows(contents, locations, offsets).tolist() == [[n * extreme] * 3]
    assert not cpu.majority_rows(contents, locations, offsets).any()


def test_results_do_not_depend_on_the_number_of_threads(generator):
    tiles = layout.tiled(bits.random_packed(20_011, 300, generator=generator))
    cues = bits.random_packed(300, 300, generator=generator)
    data = 2 * torch.randint(2, (300, 33), generator=generator, dtype=torch.int8) - 1
    before, results = torch.get_num_threads(), []
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        active = cpu.hamming_scan(tiles, 20_011, cues, 130, 0.01)
        contents = torch.full((20_011, 33), 126, dtype=torch.int8)
        cpu.add_rows(contents, *active, data)
        results.append((*active, contents, cpu.sum_rows(contents, *active)))
    torch.set_num_threads(before)
    assert equal(results[0], results[1])
    assert equal(results[0], results[2])


def test_kernels_may_be_called_from_several_threads_at_once(generator):
    tiles = layout.tiled(bits.random_packed(20_011, 300, generator=generator))
    cues = bits.random_packed(64, 300, generator=generator)
    expected = reference.hamming_scan(tiles, 20_011, cues, 130, 0.01)
    wrong = []

    def scan():
        found = [cpu.hamming_scan(tiles, 20_011, cues, 130, 0.01) for _ in range(5)]
        wrong.extend(one for one in found if not equal(one, expected))

    workers = [threading.Thread(target=scan) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_an_error_in_a_range_is_raised():
    def fail(low, high):
        if low:
            raise ZeroDivisionError("in another thread")
        return high

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError, match="in another thread"):
        threads.over_ranges(fail, 10)
    torch.set_num_threads(before)


@pytest.mark.parametrize("n_locations", [1, 7, 8, 9, 65])
def test_untiled_undoes_tiled(n_locations, generator):
    packed = bits.random_packed(n_locations, 130, generator=generator)
    tiles = layout.tiled(packed)
    assert tiles.shape == (-(-n_locations // 8), 3, 8)
    assert torch.equal(layout.untiled(tiles, n_locations), packed)
    assert torch.equal(tiles[0, :, 0], packed[0])


def test_each_device_has_its_kernels():
    assert for_device(torch.device("cpu")) is cpu
    assert for_device(torch.device("cuda")) is reference


def test_without_torchs_own_threads_a_pool_does_the_same(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    expected = threads.over_ranges(lambda low, high: (low, high), 100, n_shares=4)
    assert expected == [(100 * i // 12, 100 * (i + 1) // 12) for i in range(12)]
    monkeypatch.setattr(threads, "_team", lambda: None)
    assert threads.over_ranges(lambda low, high: (low, high), 100, n_shares=4) == expected
    with pytest.raises(ZeroDivisionError):
        threads.over_ranges(lambda low, high: high / (low - 50), 100, n_shares=4)
    torch.set_num_threads(before)


def test_a_forked_child_has_threads_of_its_own():
    code = """
import os, sys, torch
from pentti.kernels import threads
torch.set_num_threads(2)
ask = lambda: threads.over_ranges(lambda low, high: high - low, 10)
assert ask() == [5, 5]
child = os.fork()
if child == 0:
    os._exit(0 if ask() == [5, 5] else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == 0

"""The kernels of the cerebellum's circuit against their definitions, and those by hand."""

import pytest
import torch

from pentti import bits
from pentti.kernels import counting, cpu, reference
from pentti.kernels.circuits import units

SIZES = [  # locations, inputs, fan-in, cues, levels
    (1, 3, 1, 1, 1),
    (7, 10, 4, 5, 3),
    (513, 70, 4, 300, 8),
    (1024, 200, 6, 256, 1),
    (1025, 200, 7, 64, 5),
    (700, 100, 31, 65, 64),
    (300, 260, 254, 70, 2),
    (90, 30, 3, 0, 1),
]
DTYPES = [torch.int8, torch.int16, torch.float32, torch.float64]


def wiring(n_locations, n_inputs, fan_in, generator):
    return torch.rand(n_locations, n_inputs, generator=generator).argsort(1)[:, :fan_in].int()


@pytest.mark.parametrize(("n_locations", "n_inputs", "fan_in", "n_cues", "n_levels"), SIZES)
def test_matches_and_counts_equal_the_reference(
    n_locations, n_inputs, fan_in, n_cues, n_levels, generator
):
    inputs = wiring(n_locations, n_inputs, fan_in, generator)
    cues = bits.random_packed(n_cues, n_inputs, generator=generator)
    thresholds = torch.randint(fan_in + 2, (n_cues, n_levels), generator=generator)
    expected = reference.threshold_match(inputs, n_inputs, cues, thresholds)
    found = cpu.threshold_match(inputs, n_inputs, cues, thresholds)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    counts = reference.input_counts(inputs, n_inputs, cues)
    assert torch.equal(cpu.input_counts(inputs, n_inputs, cues), counts)
    assert counts.sum(1).tolist() == [n_locations] * n_cues


def test_the_reference_is_the_definition(generator):
    inputs = wiring(40, 12, 4, generator)
    cue = bits.random(6, 12, generator=generator)
    thresholds = torch.randint(6, (6, 3), generator=generator)
    locations, offsets = reference.threshold_match(inputs, 12, bits.pack(cue), thresholds)
    counts = reference.input_counts(inputs, 12, bits.pack(cue))
    for b in range(6):
        active = [sum(int(cue[b, i]) for i in inputs[m].tolist()) for m in range(40)]
        reached = [m for m in range(40) if active[m] >= thresholds[b, m % 3]]
        assert locations[offsets[b] : offsets[b + 1]].tolist() == reached
        assert counts[b].tolist() == [active.count(k) for k in range(5)]


@pytest.mark.parametrize("fan_in", [6, 7, 30, 31, 254])
def test_a_threshold_above_all_inputs_is_never_reached_and_0_always(fan_in, generator):
    inputs = wiring(70, 260, fan_in, generator)
    cues = bits.pack(torch.ones(2, 260, dtype=torch.bool))
    thresholds = torch.tensor([[fan_in + 1], [0]])
    _, offsets = cpu.threshold_match(inputs, 260, cues, thresholds)
    assert offsets.tolist() == [0, 0, 70]
    assert fan_in + 1 <= 2 ** counting.n_planes(fan_in) - 1  # lest unused cues reach theirs


def test_many_locations_take_their_cues_in_blocks(monkeypatch, generator):
    from pentti.kernels import circuits_cpu

    inputs = wiring(600, 50, 3, generator)
    cues = bits.random_packed(100, 50, generator=generator)
    thresholds = torch.full((100, 1), 2)
    expected = reference.threshold_match(inputs, 50, cues, thresholds)
    monkeypatch.setattr(circuits_cpu, "_BITMAP_WORDS", 7 * counting.row_words(600))
    found = cpu.threshold_match(inputs, 50, cues, thresholds)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_beams_move_on_with_the_location():
    assert units(torch.arange(6), 6, 3, 2).tolist() == [
        [0, 1], [0, 1], [1, 2], [1, 2], [2, 0], [2, 0],
    ]  # fmt: skip
    assert units(torch.arange(2), 2, 3, 3).tolist() == [[0, 1, 2], [0, 1, 2]]
    met = units(torch.arange(1000), 1000, 50, 7)
    assert torch.bincount(met.flatten()).tolist() == [140] * 50  # all units meet as many


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n_units", "fan_out"), [(5, 5), (7, 3), (300, 17), (300, 300)])
def test_beams_equal_the_reference(dtype, n_units, fan_out, generator):
    inputs = wiring(701, 40, 4, generator)
    cues = bits.random_packed(65, 40, generator=generator)
    active = cpu.threshold_match(inputs, 40, cues, torch.full((65, 1), 3))
    contents = torch.randint(91, (701, fan_out), generator=generator).to(dtype)
    change = torch.randint(-60, 61, (65, n_units), generator=generator).to(dtype)
    sums = reference.sum_beams(contents, n_units, *active)
    assert torch.equal(cpu.sum_beams(contents, n_units, *active), sums)
    expected, changed = contents.clone(), contents.clone()
    reference.add_beams(expected, n_units, *active, change, 90)
    cpu.add_beams(changed, n_units, *active, change, 90)
    assert torch.equal(changed, expected)
    assert 0 == changed.min() < changed.max() == 90
    assert not torch.equal(changed, contents)


def test_sums_of_many_counters_do_not_overflow():
    contents = torch.full((70_000, 1), 32_767, dtype=torch.int16)
    every, edges = torch.arange(70_000), torch.tensor([0, 70_000])
    assert cpu.sum_beams(contents, 1, every, edges).item() == 70_000 * 32_767

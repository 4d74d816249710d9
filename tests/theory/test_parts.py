"""Caps of addresses of any number of parts, against closed forms, two parts and simulation."""

import math

import numpy as np
import pytest

from pentti import theory
from pentti.errors import ArgumentError


@pytest.mark.parametrize("n_parts", [2, 3, 4, 7])
@pytest.mark.parametrize("cosine", [0.0, 0.1, 0.31, 0.5, 0.9, 1.0])
def test_in_three_dimensions_cosines_are_even_and_their_mean_is_that_of_irwin_and_hall(
    n_parts, cosine
):
    at = n_parts * (1 + cosine) / 2  # of a sum of numbers in [0, 1]
    below = sum(
        (-1) ** k * math.comb(n_parts, k) * (at - k) ** n_parts for k in range(math.floor(at) + 1)
    ) / math.factorial(n_parts)
    assert theory.parts_cap_probability(3, n_parts, cosine) == pytest.approx(1 - below, abs=1e-9)
    assert theory.parts_cap_probability(3, n_parts, -cosine) == pytest.approx(below, abs=1e-9)


@pytest.mark.parametrize("part_dim", [4, 5, 16, 100, 101, 512])
@pytest.mark.parametrize("cosine", [-0.2, 0.01, 0.1, 0.5])
def test_two_parts_are_product_keys(part_dim, cosine):
    one = theory.product_cap_probability(part_dim, cosine)
    assert theory.parts_cap_probability(part_dim, 2, cosine) == pytest.approx(one, abs=1e-12)
    angles = [1.0, 0.7, -0.4]
    both = theory.product_cap_intersection(part_dim, cosine, angles)
    found = theory.parts_cap_intersection(part_dim, 2, cosine, angles)
    np.testing.assert_allclose(found, both, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("part_dim", "n_parts"), [(2, 4), (8, 4), (5, 8)])
@pytest.mark.parametrize("threshold", [-0.1, 0.25])
def test_simulation(part_dim, n_parts, threshold):
    n, angle = 200_000, 0.6
    keys = np.random.default_rng(3).standard_normal((n, n_parts, part_dim))
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    first = keys[..., 0].mean(1)
    second = (math.cos(angle) * keys[..., 0] + math.sin(angle) * keys[..., 1]).mean(1)
    for found, expected in (
        (first >= threshold, theory.parts_cap_probability(part_dim, n_parts, threshold)),
        (
            (first >= threshold) & (second >= threshold),
            theory.parts_cap_intersection(part_dim, n_parts, threshold, math.cos(angle)),
        ),
    ):
        error = math.sqrt(expected * (1 - expected) / n)
        assert abs(found.mean() - expected) < 4.5 * error


@pytest.mark.parametrize("share", [0.9, 0.5, 0.01, 8 / 2**24])
@pytest.mark.parametrize("part_dim", [2, 8, 200])
def test_the_threshold_is_the_inverse(part_dim, share):
    cosine = theory.parts_cosine_for(part_dim, 4, share)
    digits = 1e-8 if part_dim == 2 else 1e-12
    assert theory.parts_cap_probability(part_dim, 4, cosine) == pytest.approx(share, abs=digits)


def test_equal_queries_share_all_and_opposite_ones_nothing():
    alone = theory.parts_cap_probability(8, 4, 0.3)
    both = theory.parts_cap_intersection(8, 4, 0.3, [1.0, 0.999, -1.0])
    assert both[0] == pytest.approx(alone, abs=1e-12)
    assert 0.9 * alone < both[1] < alone
    assert both[2] == 0


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((1, 4, 0.1), "part_dim"), ((8, 1, 0.1), "n_parts"), ((8, 4, 1.1), "cosine")],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ArgumentError, match=name):
        theory.parts_cap_probability(*arguments)


@pytest.mark.parametrize("cosine", [0.9, 0.3])
def test_in_two_dimensions_shares_are_those_of_angles(cosine):
    """Long series go another way: shares against an average over 1,000 × 40,000 pairs of angles."""
    threshold, half_angle = 0.8, math.acos(cosine) / 2
    angles = (np.arange(40_000) + 0.5) * math.tau / 40_000
    first, second = np.cos(angles - half_angle), np.cos(angles + half_angle)
    # Two parts: of each pair of angles the means of both must reach the threshold.
    order = np.argsort(first)
    wanted = 0
    for one, other in zip(first[::40], second[::40], strict=True):
        from_ = np.searchsorted(first[order], 2 * threshold - one)
        wanted += np.count_nonzero(second[order[from_:]] >= 2 * threshold - other)
    share = wanted / 40_000 / 1000
    found = theory.parts_cap_intersection(2, 2, threshold, cosine)
    assert found == pytest.approx(share, rel=2e-3, abs=1e-5)

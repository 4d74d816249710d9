"""β, weightings and their distance."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pentti import theory
from pentti.errors import ArgumentError


@pytest.mark.parametrize(("address_bits", "radius"), [(11, 2), (64, 11), (257, 103)])
def test_beta_is_the_least_squares_slope(address_bits, radius):
    cosines = 1 - 2 * np.arange(radius) / address_bits
    logs = np.log(theory.overlap_curve(address_bits, radius, np.arange(radius)))
    slope = np.polyfit(cosines, logs, 1)[0]
    assert theory.beta(address_bits, radius) == pytest.approx(slope, rel=1e-9)


def test_the_published_slip_is_a_factor():
    for radius in (2, 5, 27):
        ratio = theory.beta(64, radius, paper_compatible=True) / theory.beta(64, radius)
        assert ratio == pytest.approx(radius / (radius - 1), rel=1e-14)


def test_beta_takes_logarithms_of_integers_beyond_the_floats():
    counts = [theory.circle_intersection(2000, 100, distance) for distance in range(100)]
    assert counts[99] / 2**2000 == 0.0  # underflows
    slope = np.polyfit(1 - np.arange(100) / 1000, [math.log(c) for c in counts], 1)[0]
    assert theory.beta(2000, 100) == pytest.approx(slope, rel=1e-9)


def test_sdm_weights_are_shares_of_the_intersections():
    distances = [[0, 3], [5, 16]]
    counts = np.array(
        [[float(theory.circle_intersection(17, 6, d)) for d in row] for row in distances]
    )
    weights = theory.sdm_weights(17, 6, distances)
    assert weights.shape == (2, 2)
    np.testing.assert_allclose(weights, counts / counts.sum(), rtol=1e-15)
    assert weights[1, 1] == 0.0


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.floats(-200, 200), st.lists(st.integers(0, 64), min_size=1, max_size=20))
def test_softmax_weights_are_normalised_and_monotone(slope, distances):
    weights = theory.softmax_weights(slope, 64, distances)
    assert weights.sum() == pytest.approx(1.0, rel=1e-12)
    nearest, farthest = np.argmin(distances), np.argmax(distances)
    ratio = 2 * slope * (max(distances) - min(distances)) / 64
    if abs(ratio) < 600:
        assert weights[nearest] == pytest.approx(weights[farthest] * math.exp(ratio), rel=1e-9)


def test_softmax_weights_do_not_overflow():
    assert theory.softmax_weights(1e6, 64, [0, 1, 64]).tolist() == [1.0, 0.0, 0.0]
    assert theory.softmax_weights(0.0, 64, [0, 1, 2, 64]).tolist() == [0.25] * 4


def test_total_variation_of_known_weightings():
    assert theory.total_variation([1.0, 0.0], [0.0, 1.0]) == 1.0
    assert theory.total_variation([0.3, 0.7], [0.3, 0.7]) == 0.0
    assert theory.total_variation([0.5, 0.5], [0.25, 0.75]) == 0.25


@pytest.mark.parametrize(("address_bits", "radius"), [(64, 5), (64, 11), (64, 27), (257, 103)])
def test_no_beta_of_a_fine_grid_is_better_than_the_best(address_bits, radius):
    distances = np.arange(address_bits + 1)
    wanted = theory.sdm_weights(address_bits, radius, distances)
    fit = theory.best_beta(address_bits, radius)
    others = [
        theory.total_variation(wanted, theory.softmax_weights(slope, address_bits, distances))
        for slope in np.linspace(0.0, 4 * fit.beta, 2001)
    ]
    assert fit.total_variation <= min(others) + 1e-9
    assert fit.total_variation == pytest.approx(min(others), abs=2e-4)


@pytest.mark.parametrize("address_bits", [2, 3, 64, 100])
def test_every_radius_has_a_best_beta(address_bits):
    distances = np.arange(address_bits + 1)
    for radius in range(2, address_bits + 1):
        fit = theory.best_beta(address_bits, radius)
        assert fit.beta >= 0
        wanted = theory.sdm_weights(address_bits, radius, distances)
        others = [
            theory.total_variation(wanted, theory.softmax_weights(slope, address_bits, distances))
            for slope in (0.0, 0.9 * fit.beta, 1.1 * fit.beta)
        ]
        assert fit.total_variation <= min(others) + 1e-15


def test_flat_weights_have_beta_zero():
    assert theory.beta(64, 64) == 0.0
    assert theory.best_beta(64, 64) == theory.BetaFit(beta=0.0, total_variation=0.0)
    assert theory.best_beta(64, 60).beta == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("radius", [27, 50, 60, 63])
def test_beta_of_nearly_flat_intersections(radius):
    # The logarithms differ in digits that a float of the counts themselves does not have.
    with localcontext() as context:
        context.prec = 60
        counts = theory.circle_intersections(64, radius)[:radius]
        logs = [Decimal(count).ln() for count in counts]
        cosines = [1 - Decimal(d) / 32 for d in range(radius)]
        mean = sum(cosines) / radius
        along = sum((c - mean) * log for c, log in zip(cosines, logs, strict=True))
        slope = float(along / sum((c - mean) ** 2 for c in cosines))
    assert theory.beta(64, radius) == pytest.approx(slope, rel=1e-10)


def test_tensors_are_accepted():
    torch = pytest.importorskip("torch")
    distances = torch.tensor([[0, 3], [5, 16]])
    given = theory.sdm_weights(17, 6, distances)
    assert given.tolist() == theory.sdm_weights(17, 6, distances.tolist()).tolist()
    weights = torch.tensor([0.25, 0.75], requires_grad=True)
    assert theory.total_variation(weights, [0.5, 0.5]) == 0.25


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theory.total_variation("a", [1.0]),
            r"^total_variation: `p` must be weights that sum to 1, got 'a'$",
        ),
        (
            lambda: theory.total_variation([1.0], [1j]),
            r"^total_variation: `q` must be weights that sum to 1, got \[1j\]$",
        ),
        (
            lambda: theory.total_variation([[1.0], [0.5, 0.5]], [1.0]),
            r"^total_variation: `p` must be weights that sum to 1, got \[\[1.0\], \[0.5, 0.5\]\]$",
        ),
        (
            lambda: theory.total_variation([1e308, 1e308], [1.0]),
            r"^total_variation: `p` must be weights that sum to 1, got \[1e\+308, 1e\+308\]$",
        ),
        (
            lambda: theory.softmax_weights(1.0, 64, [[0], [1, 2]]),
            (
                r"^softmax_weights: `distances` must be integers in \[0, 64\], "
                r"got \[\[0\], \[1, 2\]\]$"
            ),
        ),
        (lambda: theory.beta(1, 1), r"^beta: `address_bits` must be at least 2, got 1$"),
        (lambda: theory.beta(64, 1), r"^beta: `radius` must be in \[2, 64\], got 1$"),
        (
            lambda: theory.sdm_weights(64, 65, [0]),
            r"^sdm_weights: `radius` must be in \[0, 64\], got 65$",
        ),
        (
            lambda: theory.sdm_weights(64, 11, [65]),
            r"^sdm_weights: `distances` must be integers in \[0, 64\], got 65$",
        ),
        (
            lambda: theory.sdm_weights(64, 11, [30, 40]),
            (
                r"^sdm_weights: `distances` must hold a distance at which circles of radius "
                r"11 meet, got \[30, 40\]$"
            ),
        ),
        (
            lambda: theory.softmax_weights(math.inf, 64, [0]),
            r"^softmax_weights: `beta` must be finite, got inf$",
        ),
        (
            lambda: theory.softmax_weights(1.0, 0, [0]),
            r"^softmax_weights: `address_bits` must be at least 1, got 0$",
        ),
        (
            lambda: theory.softmax_weights(1.0, 64, [-1]),
            r"^softmax_weights: `distances` must be integers in \[0, 64\], got -1$",
        ),
        (
            lambda: theory.softmax_weights(1.0, 64, []),
            r"^softmax_weights: `distances` must hold at least one distance, got \[\]$",
        ),
        (
            lambda: theory.total_variation([0.5, 0.4], [0.5, 0.5]),
            r"^total_variation: `p` must be weights that sum to 1, got \[0.5, 0.4\]$",
        ),
        (
            lambda: theory.total_variation([0.5, 0.5], [1.5, -0.5]),
            r"^total_variation: `q` must be weights that sum to 1, got \[1.5, -0.5\]$",
        ),
        (
            lambda: theory.total_variation([0.5, 0.5], [1.0]),
            r"^total_variation: `q` must have shape \(2,\), got \(1,\)$",
        ),
        (lambda: theory.best_beta(64, 1), r"^best_beta: `radius` must be in \[2, 64\], got 1$"),
        (lambda: theory.best_beta(1, 2), r"^best_beta: `address_bits` must be at least 2, got 1$"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()

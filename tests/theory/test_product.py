"""Caps of product keys and of several heads, against integrals, simulation and enumeration."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from pentti import theory
from pentti.errors import ArgumentError


@pytest.mark.parametrize("cosine", [0.0, 1e-7, 0.1, 0.25, 0.5, 0.99, 1.0])
def test_in_three_dimensions_cosines_are_even_and_their_mean_is_a_triangle(cosine):
    expected = (1 - cosine) ** 2 / 2
    assert theory.product_cap_probability(3, cosine) == pytest.approx(expected, rel=1e-13)
    assert theory.product_cap_probability(3, -cosine) == pytest.approx(1 - expected, rel=1e-13)


@pytest.mark.parametrize("cosine", [0.01, 0.3, 0.5, 0.9])
def test_on_circles_the_law_is_an_elliptic_integral(cosine):
    # The sum of two cosines of even angles has the density K(√(1 − (x / 2)²)) / π².
    def density(x):
        return special.ellipkm1((x / 2) ** 2) / math.pi**2

    area, _ = integrate.quad(density, 2 * cosine, 2, epsabs=0, epsrel=1e-12)
    assert theory.product_cap_probability(2, cosine) == pytest.approx(area, rel=1e-10)


@pytest.mark.parametrize("half_dim", [4, 5, 17, 64, 256])
@pytest.mark.parametrize("cosine", [0.001, 0.1, 0.5, 0.9])
def test_the_probability_equals_a_plain_integral_also_deep_in_the_tail(half_dim, cosine):
    m, scale = (half_dim - 3) / 2, special.betaln(0.5, (half_dim - 1) / 2)

    def log_integrand(u):
        cap = theory.cap_probability(half_dim, min(1.0, 2 * cosine - u))
        return m * math.log(1 - u * u) + math.log(max(cap, 1e-300)) - scale

    top = log_integrand(cosine)
    low, high = (
        max(2 * cosine - 1, cosine - 20 / half_dim**0.5),
        min(1, cosine + 20 / half_dim**0.5),
    )
    area, _ = integrate.quad(
        lambda u: math.exp(log_integrand(u) - top), low, high, points=[cosine], epsabs=0, limit=500
    )
    expected = area * math.exp(top)
    assert theory.product_cap_probability(half_dim, cosine) == pytest.approx(expected, rel=1e-8)


def test_many_dimensions_tend_to_the_normal_law():
    for sigmas in (0.5, 2.0, 5.0):
        cosine = sigmas / math.sqrt(2e6)
        expected = stats.norm.sf(sigmas)
        assert theory.product_cap_probability(10**6, cosine) == pytest.approx(expected, rel=2e-4)


def test_what_underflows_is_zero():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert theory.product_cap_probability(10**6, 0.5) == 0.0
        assert theory.product_cap_intersection(10**6, 0.5, [1.0, 0.0]).tolist() == [0, 0]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(3, 2000), st.floats(1e-12, 1 - 1e-9))
def test_product_cosine_for_inverts_the_probability(half_dim, share):
    threshold = theory.product_cosine_for(half_dim, share)
    assert -1 <= threshold <= 1
    assert theory.product_cap_probability(half_dim, threshold) == pytest.approx(share, rel=1e-8)


def test_half_of_all_keys_have_a_positive_similarity():
    assert theory.product_cosine_for(64, 0.5) == 0.0
    assert theory.product_cosine_for(64, 0.99) == pytest.approx(
        -theory.product_cosine_for(64, 0.01)
    )
    assert theory.product_cosine_for(128, 1e-250) == pytest.approx(
        theory.product_cosine_for(128, 1.1e-250), rel=1e-3
    )


@pytest.mark.parametrize("half_dim", [2, 3, 4, 7, 64, 256])
@pytest.mark.parametrize("threshold", [-0.4, -0.02, 0.0, 1e-6, 0.1, 0.5, 1.0])
def test_the_intersection_at_its_limits(half_dim, threshold):
    share = theory.product_cap_probability(half_dim, threshold)
    same, opposite = theory.product_cap_intersection(half_dim, threshold, [1.0, -1.0])
    assert same == pytest.approx(share, rel=1e-10)
    assert opposite == pytest.approx(max(0.0, 2 * share - 1), abs=1e-12)


@pytest.mark.parametrize("half_dim", [2, 3, 8, 100])
def test_two_half_spaces_share_what_their_angle_leaves(half_dim):
    cosines = np.linspace(-1, 1, 21)
    expected = 0.5 - np.arccos(cosines) / (2 * math.pi)
    shared = theory.product_cap_intersection(half_dim, 0.0, cosines)
    np.testing.assert_allclose(shared, expected, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("half_dim", [2, 3, 8, 32])
@pytest.mark.parametrize(("threshold", "cosine"), [(0.3, 0.5), (0.1, 0.9), (-0.2, 0.1)])
def test_shares_equal_simulation(half_dim, threshold, cosine):
    """To five standard errors."""
    rng = np.random.default_rng(8)
    n = 200_000
    halves = rng.standard_normal((2, n, half_dim))
    halves /= np.linalg.norm(halves, axis=2, keepdims=True)
    first = halves[:, :, 0].mean(0)
    second = (cosine * halves[:, :, 0] + math.sqrt(1 - cosine**2) * halves[:, :, 1]).mean(0)
    one = theory.product_cap_probability(half_dim, threshold)
    both = float(theory.product_cap_intersection(half_dim, threshold, cosine))
    for hits, expected in (
        (first >= threshold, one),
        ((first >= threshold) & (second >= threshold), both),
    ):
        assert abs(hits.mean() - expected) < 5 * math.sqrt(expected * (1 - expected) / n)


def test_deep_in_the_tail_the_slope_is_that_of_the_radius():
    """dI/dv = −P(|sum| > 2c / cos(v / 2)) / 2π; in four dimensions the points are even in discs."""

    def beyond(radius):  # of two points even in the unit disc: how far apart they lie
        half = radius / 2
        return 1 - (
            1
            + 2 / math.pi * (radius**2 - 1) * math.acos(half)
            - radius / math.pi * (1 + radius**2 / 2) * math.sqrt(1 - half**2)
        )

    c, v, step = 0.4, 1.1, 1e-4
    more, less = theory.product_cap_intersection(4, c, np.cos([v - step, v + step]))
    slope = beyond(2 * c / math.cos(v / 2)) / (2 * math.pi)
    assert (more - less) / (2 * step) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("n_heads", [1, 2, 5])
def test_heads_equal_enumeration(n_heads):
    p, shared = 0.3, 0.12
    each = {(1, 1): shared, (1, 0): p - shared, (0, 1): p - shared, (0, 0): 1 - 2 * p + shared}
    states = {(0, 0): 1.0}
    for _ in range(n_heads):
        after = {}
        for (a, b), before in states.items():
            for (x, y), chance in each.items():
                key = (a | x, b | y)
                after[key] = after.get(key, 0.0) + before * chance
        states = after
    assert theory.any_head(p, n_heads) == pytest.approx(states[1, 1] + states[1, 0], rel=1e-12)
    both = float(theory.any_head_intersection(p, shared, n_heads))
    assert both == pytest.approx(states[1, 1], rel=1e-12)
    assert theory.one_head(theory.any_head(p, n_heads), n_heads) == pytest.approx(p, rel=1e-12)


def test_heads_of_tiny_and_full_shares():
    assert theory.any_head(1e-30, 4) == pytest.approx(4e-30)
    assert theory.one_head(4e-30, 4) == pytest.approx(1e-30)
    assert theory.any_head(1.0, 3) == theory.one_head(1.0, 3) == 1.0
    assert theory.any_head_intersection(1.0, [1.0], 3).tolist() == [1.0]


@pytest.mark.parametrize(("p", "m", "k"), [(0.3, 7, 1), (0.3, 7, 3), (0.9, 5, 5), (0.0, 4, 2)])
def test_a_cut_share_equals_its_sum(p, m, k):
    counts = np.arange(m + 1)
    expected = (np.minimum(counts, k) * stats.binom.pmf(counts, m, p)).sum() / m
    assert theory.cut_probability(p, m, k) == pytest.approx(expected, rel=1e-12, abs=1e-300)


def test_a_cut_of_everything_leaves_k():
    assert theory.cut_probability(1.0, 100, 7) == 0.07


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theory.product_cap_probability(1, 0.5),
            "^product_cap_probability: `half_dim` must be at least 2, got 1$",
        ),
        (
            lambda: theory.product_cap_probability(3, 1.5),
            r"^product_cap_probability: `cosine` must be in \[-1.0, 1.0\], got 1.5$",
        ),
        (
            lambda: theory.product_cosine_for(1, 0.5),
            "^product_cosine_for: `half_dim` must be at least 2, got 1$",
        ),
        (
            lambda: theory.product_cosine_for(3, 0.0),
            r"^product_cosine_for: `probability` must be in \(0, 1\), got 0.0$",
        ),
        (
            lambda: theory.product_cap_intersection(1, 0.5, 0.5),
            "^product_cap_intersection: `half_dim` must be at least 2, got 1$",
        ),
        (
            lambda: theory.product_cap_intersection(3, math.nan, 0.5),
            "^product_cap_intersection: `threshold` must be finite, got nan$",
        ),
        (
            lambda: theory.product_cap_intersection(3, 0.5, [0.5, -2.0]),
            r"^product_cap_intersection: `cosines` must be in \[-1, 1\], got -2.0$",
        ),
        (lambda: theory.any_head(1.1, 2), r"^any_head: `probability` must be in \[0.0, 1.0\]"),
        (lambda: theory.any_head(0.1, 0), "^any_head: `n_heads` must be at least 1, got 0$"),
        (lambda: theory.one_head(-0.1, 2), r"^one_head: `probability` must be in \[0.0, 1.0\]"),
        (lambda: theory.one_head(0.1, 0), "^one_head: `n_heads` must be at least 1, got 0$"),
        (
            lambda: theory.any_head_intersection(0.1, 0.2, 2),
            r"^any_head_intersection: `both` must be in \[0, 0.1\], got 0.2$",
        ),
        (
            lambda: theory.cut_probability(0.1, 5, 6),
            r"^cut_probability: `top_k` must be in \[1, 5\], got 6$",
        ),
        (
            lambda: theory.cut_probability(0.1, 0, 1),
            "^cut_probability: `n_locations` must be at least 1, got 0$",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()

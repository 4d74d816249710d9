"""Balls, intersections, caps and Jaeckel's designs against enumeration, integration and chance."""

import importlib
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from pentti import theory
from pentti.errors import ArgumentError


def brute_force_intersection(n, radius, distance):
    other = (1 << distance) - 1
    return sum(
        point.bit_count() <= radius and (point ^ other).bit_count() <= radius
        for point in range(1 << n)
    )


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_every_intersection_equals_enumeration(n):
    for radius in range(n + 1):
        every = theory.circle_intersections(n, radius)
        for distance in range(n + 1):
            expected = brute_force_intersection(n, radius, distance)
            assert every[distance] == expected
            assert theory.circle_intersection(n, radius, distance) == expected
            assert theory.lune_intersection(n, radius, distance) == expected


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_the_two_forms_agree(data):
    n = data.draw(st.integers(1, 300))
    radius = data.draw(st.integers(0, n))
    distance = data.draw(st.integers(0, n))
    bricken = theory.circle_intersection(n, radius, distance)
    assert bricken == theory.lune_intersection(n, radius, distance)
    assert bricken == theory.circle_intersections(n, radius)[distance]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_identities(data):
    n = data.draw(st.integers(2, 200))
    radius = data.draw(st.integers(0, n))
    counts = theory.circle_intersections(n, radius)
    assert len(counts) == n + 1
    assert counts[0] == sum(math.comb(n, i) for i in range(radius + 1))
    assert counts == sorted(counts, reverse=True)
    assert all(counts[2 * k - 1] == counts[2 * k] for k in range(1, n // 2 + 1))
    assert not any(counts[2 * radius + 1 :])
    # Over all points y, each point of x's ball lies in the balls of as many y as a ball has points.
    assert sum(math.comb(n, d) * c for d, c in enumerate(counts)) == counts[0] ** 2


def test_intersections_are_exact_at_ten_thousand_bits():
    counts = theory.circle_intersections(10_000, 4_845)
    assert counts[301] == theory.circle_intersection(10_000, 4_845, 301)


def test_overlap_curve_has_the_shape_of_the_distances():
    distances = np.array([[0, 3], [11, 64]])
    curve = theory.overlap_curve(64, 11, distances)
    assert curve.shape == (2, 2)
    assert curve.dtype == np.float64
    for place in itertools.product(range(2), range(2)):
        count = theory.circle_intersection(64, 11, int(distances[place]))
        assert curve[place] == count / 2**64
    assert theory.overlap_curve(64, 11, []).shape == (0,)


def test_overlap_curve_of_few_distances_is_that_of_all():
    every = theory.overlap_curve(257, 103, np.arange(258))
    assert every.tolist() == [c / 2**257 for c in theory.circle_intersections(257, 103)]
    mixed = [[9, 257, 0], [9, 8, 100]]
    assert theory.overlap_curve(257, 103, mixed).tolist() == every[np.array(mixed)].tolist()


def test_tensors_are_accepted():
    torch = pytest.importorskip("torch")
    curve = theory.overlap_curve(64, 11, torch.tensor([[0, 3], [11, 64]]))
    assert curve.tolist() == theory.overlap_curve(64, 11, [[0, 3], [11, 64]]).tolist()


def test_overlap_curve_equals_simulation():
    rng = np.random.default_rng(5)
    n, radius, distance, n_points = 31, 13, 7, 200_000
    points = rng.integers(0, 2, size=(n_points, n), dtype=np.int8)
    other = np.zeros(n, dtype=np.int8)
    other[:distance] = 1
    both = (points.sum(axis=1) <= radius) & ((points ^ other).sum(axis=1) <= radius)
    expected = float(theory.overlap_curve(n, radius, distance))
    five_errors = 5 * math.sqrt(expected * (1 - expected) / n_points)
    assert abs(both.mean() - expected) < five_errors


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 257])
def test_activation_probabilities_are_exact(n):
    every = theory.activation_probabilities(n)
    total = 0
    for radius in range(n + 1):
        total += math.comb(n, radius)
        assert every[radius] == total / 2**n
        assert theory.activation_probability(n, radius) == every[radius]


def test_activation_probability_neither_overflows_nor_sticks():
    assert theory.activation_probability(10_000, 10_000) == 1.0
    assert theory.activation_probability(10_000, 0) == 0.0  # 2^-10000 underflows
    assert theory.activation_probability(10_001, 5_000) == 0.5
    assert theory.activation_probability(1074, 0) == 5e-324


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 300), st.floats(1e-6, 1 - 1e-6))
def test_radius_for_is_the_nearest_in_log_ratio(n, wanted):
    chosen = theory.radius_for(n, wanted)
    misses = np.abs(np.log(theory.activation_probabilities(n) / wanted))
    assert misses[chosen] == pytest.approx(misses.min(), abs=1e-12)


def test_radius_for_at_ten_thousand_bits():
    assert theory.radius_for(10_000, 0.001) == 4845
    assert theory.radius_for(10_000, 0.5) == 5000


@pytest.mark.parametrize("dim", [2, 3, 7, 64, 1000])
@pytest.mark.parametrize("cosine", [-0.9, -0.1, 0.0, 0.05, 0.6])
def test_cap_probability_equals_its_integral(dim, cosine):
    scale = math.exp(math.lgamma(dim / 2) - math.lgamma((dim - 1) / 2)) / math.sqrt(math.pi)

    def density(angle):
        return scale * math.sin(angle) ** (dim - 2)

    peaks = [a for a in (math.pi / 2,) if a < math.acos(cosine)]
    area, _ = integrate.quad(density, 0, math.acos(cosine), points=peaks, epsabs=0, limit=400)
    assert theory.cap_probability(dim, cosine) == pytest.approx(area, rel=1e-9)


def test_caps_of_the_ordinary_sphere_are_as_archimedes_says():
    for cosine in (-1.0, -0.3, 0.0, 0.25, 1.0):
        assert theory.cap_probability(3, cosine) == pytest.approx((1 - cosine) / 2, abs=1e-15)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(2, 2000), st.floats(1e-12, 1 - 1e-9))
def test_cosine_for_inverts_cap_probability(dim, share):
    cosine = theory.cosine_for(dim, share)
    assert -1 <= cosine <= 1
    assert theory.cap_probability(dim, cosine) == pytest.approx(share, rel=1e-8)


def test_half_the_sphere_has_threshold_zero():
    assert theory.cosine_for(512, 0.5) == 0.0
    assert theory.cosine_for(512, 0.99) == pytest.approx(-theory.cosine_for(512, 0.01))


@pytest.mark.parametrize("dim", [2, 3, 8, 64, 512, 1000])
@pytest.mark.parametrize("threshold", [-0.4, -0.02, 0.0, 0.1, 0.5])
def test_cap_intersection_at_its_limits(dim, threshold):
    share = theory.cap_probability(dim, threshold)
    same, opposite = theory.cap_intersection(dim, threshold, [1.0, -1.0])
    assert same == pytest.approx(share, rel=1e-10)
    assert opposite == pytest.approx(max(0.0, 2 * share - 1), abs=1e-12)


def test_two_half_spheres_share_what_their_angle_leaves():
    cosines = np.linspace(-1, 1, 41)
    expected = 0.5 - np.arccos(cosines) / (2 * math.pi)
    for dim in (2, 3, 4, 64, 1000):
        shared = theory.cap_intersection(dim, 0.0, cosines)
        np.testing.assert_allclose(shared, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("dim", "threshold", "cosine"), [(64, 0.288, 0.5), (1000, 0.098, -0.5)])
def test_cap_intersection_equals_a_plain_double_integral(dim, threshold, cosine):
    # On the sphere, the coordinates (x, y) in the plane of the two centres have the density
    # (dim − 2)/2π · (1 − x² − y²)^((dim − 4)/2); in polar form its radial part is elementary.
    def wedge(angle):
        nearest = min(math.cos(angle), math.cos(angle - math.acos(cosine)))
        if nearest <= threshold:
            return 0.0
        return (1 - (threshold / nearest) ** 2) ** ((dim - 2) / 2) / (2 * math.pi)

    middle = math.acos(cosine) / 2
    reach = math.acos(threshold) - middle
    area, _ = integrate.quad(
        wedge, middle - reach, middle + reach, points=[middle], epsabs=0, epsrel=1e-11, limit=500
    )
    assert float(theory.cap_intersection(dim, threshold, cosine)) == pytest.approx(area, rel=1e-8)


@pytest.mark.parametrize("cosine", [0.9, 0.5, 0.1])
@pytest.mark.parametrize("threshold", [0.3, -0.2])
def test_cap_intersection_equals_simulation(cosine, threshold):
    rng = np.random.default_rng(8)
    n_points = 200_000
    points = rng.standard_normal((n_points, 8))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    second = cosine * points[:, 0] + math.sqrt(1 - cosine**2) * points[:, 1]
    hits = ((points[:, 0] >= threshold) & (second >= threshold)).mean()
    expected = float(theory.cap_intersection(8, threshold, cosine))
    assert abs(hits - expected) < 5 * math.sqrt(expected * (1 - expected) / n_points)


def test_selected_coordinates_equal_enumeration():
    n, k = 7, 3
    locations = [
        (chosen, values)
        for chosen in itertools.combinations(range(n), k)
        for values in itertools.product((0, 1), repeat=k)
    ]
    for distance in range(n + 1):
        other = [1] * distance + [0] * (n - distance)
        both = sum(
            not any(values) and all(other[c] == 0 for c in chosen) for chosen, values in locations
        )
        overlap = float(theory.selected_coordinates_overlap(n, k, distance))
        assert overlap == pytest.approx(both / len(locations), rel=1e-15)
    assert theory.selected_coordinates_probability(k) == 1 / 8


def test_hyperplanes_equal_enumeration():
    n, ones, k = 11, 5, 2
    locations = list(itertools.combinations(range(n), k))
    first = set(range(ones))
    active = sum(first.issuperset(chosen) for chosen in locations)
    assert theory.hyperplane_probability(n, ones, k) == pytest.approx(active / len(locations))
    for moved in range(ones + 1):
        second = set(range(moved, ones + moved))
        both = sum((first & second).issuperset(chosen) for chosen in locations)
        overlap = float(theory.hyperplane_overlap(n, ones, k, 2 * moved))
        assert overlap == pytest.approx(both / len(locations), rel=1e-15)


def test_overlaps_at_distance_zero_are_the_activation_probabilities():
    assert theory.selected_coordinates_overlap(1000, 10, 0) == 2.0**-10
    one = theory.hyperplane_probability(1000, 100, 3)
    assert theory.hyperplane_overlap(1000, 100, 3, 0) == one
    assert theory.overlap_curve(256, 103, 0) == theory.activation_probability(256, 103)


def test_theory_is_light():
    heavy = "{'torch', 'numba', 'mpmath', 'matplotlib'}"
    code = f"import sys, pentti.theory; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_those_of_the_modules():
    modules = (
        "capacity", "critical", "geometry", "jaeckel", "parts", "product", "softmax", "sphere"
    )  # fmt: skip
    names = [n for m in modules for n in importlib.import_module(f"pentti.theory.{m}").__all__]
    assert theory.__all__ == sorted(names)
    assert not [name for name in names if not hasattr(theory, name)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theory.activation_probability(0, 0),
            r"^activation_probability: `address_bits` must be at least 1, got 0$",
        ),
        (
            lambda: theory.activation_probability(10, 11),
            r"^activation_probability: `radius` must be in \[0, 10\], got 11$",
        ),
        (
            lambda: theory.activation_probabilities(1.5),
            r"^activation_probabilities: `address_bits` must be an integer at least 1, got 1.5$",
        ),
        (
            lambda: theory.radius_for(10, 0.0),
            r"^radius_for: `probability` must be in \(0, 1\), got 0.0$",
        ),
        (
            lambda: theory.radius_for(True, 0.1),
            r"^radius_for: `address_bits` must be an integer at least 1, got True$",
        ),
        (
            lambda: theory.circle_intersection(10, 3, 11),
            r"^circle_intersection: `distance` must be in \[0, 10\], got 11$",
        ),
        (
            lambda: theory.lune_intersection(10, 3, -1),
            r"^lune_intersection: `distance` must be in \[0, 10\], got -1$",
        ),
        (
            lambda: theory.circle_intersections(10, -1),
            r"^circle_intersections: `radius` must be in \[0, 10\], got -1$",
        ),
        (
            lambda: theory.overlap_curve(10, 3, [0, 11]),
            r"^overlap_curve: `distances` must be integers in \[0, 10\], got 11$",
        ),
        (
            lambda: theory.overlap_curve(10, 3, [[0], [1, 2]]),
            (
                r"^overlap_curve: `distances` must be integers in \[0, 10\], "
                r"got \[\[0\], \[1, 2\]\]$"
            ),
        ),
        (
            lambda: theory.selected_coordinates_overlap(10, 3, [[0], [1, 2]]),
            (
                r"^selected_coordinates_overlap: `distances` must be integers in \[0, 10\], "
                r"got \[\[0\], \[1, 2\]\]$"
            ),
        ),
        (
            lambda: theory.cap_intersection(8, 0.1, [[0], [1, 2]]),
            r"^cap_intersection: `cosines` must be numbers, got \[\[0\], \[1, 2\]\]$",
        ),
        (
            lambda: theory.overlap_curve(10, 3, [0.5]),
            r"^overlap_curve: `distances` must be integers in \[0, 10\], got \[0.5\]$",
        ),
        (
            lambda: theory.cap_probability(1, 0.5),
            r"^cap_probability: `dim` must be at least 2, got 1$",
        ),
        (
            lambda: theory.cap_probability(8, 1.5),
            r"^cap_probability: `cosine` must be in \[-1.0, 1.0\], got 1.5$",
        ),
        (
            lambda: theory.cosine_for(1, 0.5),
            r"^cosine_for: `dim` must be at least 2, got 1$",
        ),
        (
            lambda: theory.cosine_for(8, 1.0),
            r"^cosine_for: `probability` must be in \(0, 1\), got 1.0$",
        ),
        (
            lambda: theory.cap_intersection(1, 0.1, 0.5),
            r"^cap_intersection: `dim` must be at least 2, got 1$",
        ),
        (
            lambda: theory.cap_intersection(8, -2, 0.5),
            r"^cap_intersection: `cosine_threshold` must be in \[-1.0, 1.0\], got -2.0$",
        ),
        (
            lambda: theory.cap_intersection(8, 0.1, [0.5, 1.5]),
            r"^cap_intersection: `cosines` must be in \[-1, 1\], got 1.5$",
        ),
        (
            lambda: theory.cap_intersection(8, 0.1, [math.nan]),
            r"^cap_intersection: `cosines` must be in \[-1, 1\], got nan$",
        ),
        (
            lambda: theory.cap_intersection(8, 0.1, "half"),
            r"^cap_intersection: `cosines` must be numbers, got 'half'$",
        ),
        (
            lambda: theory.selected_coordinates_probability(0),
            r"^selected_coordinates_probability: `n_selected` must be at least 1, got 0",
        ),
        (
            lambda: theory.selected_coordinates_overlap(10, 11, 0),
            r"^selected_coordinates_overlap: `n_selected` must be in \[1, 10\], got 11$",
        ),
        (
            lambda: theory.selected_coordinates_overlap(10, 2, 11),
            r"^selected_coordinates_overlap: `distances` must be integers in \[0, 10\], got 11$",
        ),
        (
            lambda: theory.hyperplane_probability(10, 11, 2),
            r"^hyperplane_probability: `n_ones` must be in \[0, 10\], got 11$",
        ),
        (
            lambda: theory.hyperplane_probability(10, 5, 0),
            r"^hyperplane_probability: `n_selected` must be in \[1, 10\], got 0$",
        ),
        (
            lambda: theory.hyperplane_overlap(10, 3, 2, [0, 8]),
            r"^hyperplane_overlap: `distances` must be integers in \[0, 6\], got 8$",
        ),
        (
            lambda: theory.hyperplane_overlap(10, 3, 2, [0, 3]),
            r"^hyperplane_overlap: `distances` must be even, got 3$",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()

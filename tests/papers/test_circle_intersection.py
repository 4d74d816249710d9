"""Circle intersections: Bricken & Pehlevan 2021 (arXiv 2111.05498) and Kanerva 1988.

The exact row was printed by the authors' own code; Kanerva's row is the table of the book, made
for 1,000 active locations where radius 451 activates 1,071.85.
"""

import pytest

from pentti import theory

DISTANCES = (0, 1, 10, 50, 100, 150, 200, 300, 400, 500)
EXACT = [
    "1071.85",
    "958.44",
    "795.87",
    "476.87",
    "285.83",
    "173.63",
    "103.46",
    "32.32",
    "7.60",
    "1.10",
]
KANERVA = (1000, 894, 743, 445, 267, 162, 97, 30, 7, 1)


@pytest.mark.parametrize(("distance", "shared"), list(zip(DISTANCES, EXACT, strict=True)))
def test_shared_locations_of_a_million(distance, shared, printed):
    assert 1e6 * theory.overlap_curve(1000, 451, distance) == printed(shared)
    count = theory.circle_intersection(1000, 451, distance)
    assert 1e6 * (count / 2**1000) == printed(shared)


@pytest.mark.parametrize(("distance", "shared"), list(zip(DISTANCES, KANERVA, strict=True)))
def test_kanervas_table_is_the_exact_one_scaled_to_a_thousand(distance, shared):
    # The book's table comes from a normal approximation; it stays within 0.6 of the exact one.
    scaled = 1e6 * theory.overlap_curve(1000, 451, distance) * 1000 / 1071.85
    assert abs(scaled - shared) <= 0.6


def test_both_published_forms_agree_in_integers():
    lune = theory.circle_intersections(1000, 451)
    for distance in (*DISTANCES, 901, 902, 903, 999, 1000):
        assert theory.circle_intersection(1000, 451, distance) == lune[distance]


def test_published_identities():
    counts = theory.circle_intersections(1000, 451)
    assert all(counts[2 * k - 1] == counts[2 * k] for k in range(1, 501))
    assert counts[0] / 2**1000 == theory.activation_probability(1000, 451)
    assert not any(counts[2 * 451 + 1 :])
    assert counts[2 * 451] > 0


def test_orthogonal_addresses_share_about_the_square_of_the_probability(printed):
    squared = theory.activation_probability(1000, 451) ** 2
    ratio = theory.overlap_curve(1000, 451, 500) / squared
    # "About" is 4 % here; the ratio itself was computed with integers.
    assert ratio == printed("0.9586")


@pytest.mark.parametrize(
    ("cosine", "share", "simulated"),
    [(0.9, "0.1626", 0.1628), (0.5, "0.0946", 0.0947), (0.1, "0.0516", 0.0517)],
)
def test_caps_in_eight_dimensions(cosine, share, simulated, printed):
    # The published figures come from a simulation of unstated size, so they are held to 2e-4 only;
    # `share` is the integral, which test_geometry.py checks by a simulation with an error bar.
    value = float(theory.cap_intersection(8, 0.3, cosine))
    assert value == printed(share)
    assert abs(value - simulated) <= 2e-4


def test_same_cosine_is_another_probability_on_bits_than_on_the_sphere(printed):
    assert theory.activation_probability(64, 11) == printed("5.03e-8")
    assert theory.cap_probability(64, 1 - 2 * 11 / 64) == printed("1.47e-9")

"""Optimal radius, capacity and critical distance.

Bricken & Pehlevan 2021 (arXiv 2111.05498): the three optimal radii. Kanerva 1993, "Sparse
Distributed Memory and Related Models": capacity. Critical distances at radius 451 were recomputed
with the exact variance, and with the simplified theory of Kanerva 1988.
"""

import pytest

from pentti import theory

N_WORDS = (1000, 2000, 5000, 10_000, 20_000, 30_000)
EXACT = (322, 274, 208, 152, 92, 54)
SIMPLIFIED = (370, 324, 262, 212, 158, 124)


@pytest.mark.parametrize(
    ("address_bits", "n_locations", "n_words", "radius"),
    [(64, 2**64, 1024, 11), (64, 2**64, 100, 12), (1000, 10**6, 10**4, 447)],
)
def test_radius_for_signal_to_noise(address_bits, n_locations, n_words, radius):
    assert theory.radius_for_signal_to_noise(address_bits, n_locations, n_words) == radius


def test_neighbours_of_the_optimal_probability(printed):
    assert theory.optimal_probability(10**6, 10**4) == printed("3.684e-4")
    assert 1e6 * theory.activation_probability(1000, 446) == printed("353.83")
    assert 1e6 * theory.activation_probability(1000, 447) == printed("444.99")


@pytest.mark.parametrize(
    ("address_bits", "n_locations", "radius"), [(64, 2**64, 5), (1000, 10**6, 444)]
)
def test_radius_for_capacity(address_bits, n_locations, radius):
    assert theory.radius_for_capacity(address_bits, n_locations, 0.5) == radius


def test_radius_for_critical_distance_and_its_plateau():
    def reach(address_bits, n_locations, n_words, radius):
        return theory.critical_distance(
            address_bits, n_locations, n_words, radius, variance="independent"
        )

    assert theory.radius_for_critical_distance(64, 2**64, 1024) == 15
    assert [reach(64, 2**64, 1024, r) for r in (14, 15, 16, 17)] == [22, 24, 24, 22]
    assert theory.radius_for_critical_distance(1000, 10**6, 10**4) == 448
    assert [reach(1000, 10**6, 10**4, r) for r in (446, 447, 448, 449, 450)] == [
        168,
        172,
        172,
        172,
        168,
    ]


@pytest.mark.parametrize(("n_words", "distance"), list(zip(N_WORDS, EXACT, strict=True)))
def test_critical_distance_with_the_exact_variance(n_words, distance):
    assert theory.critical_distance(1000, 10**6, n_words, 451) == distance


@pytest.mark.parametrize(("n_words", "distance"), list(zip(N_WORDS, SIMPLIFIED, strict=True)))
def test_critical_distance_in_the_simplified_theory(n_words, distance):
    found = theory.critical_distance(1000, 10**6, n_words, 451, variance="simplified")
    assert found == distance


@pytest.mark.parametrize(("fidelity", "share"), [(0.999, ".1047"), (0.995, ".1507")])
def test_asymptotic_capacity(fidelity, share, printed):
    assert theory.capacity(fidelity) == printed(share)


def test_capacity_of_a_million_locations(printed):
    assert theory.capacity(0.999, 10**6) == printed(".0961")
    at_451 = theory.activation_probability(1000, 451)
    assert theory.capacity(0.999, 10**6, at_451) == printed(".05")
    assert theory.bit_fidelity(10**6, 0.0961 * 10**6, 2.48e-4) == printed(".999")

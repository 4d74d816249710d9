"""Signal, noise, capacity and critical distance, against their definitions and a simulation."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from pentti import theory
from pentti.errors import ArgumentError
from pentti.theory import critical


def test_signal_to_noise_is_its_formula_and_broadcasts():
    n_words = np.array([[100], [5_000]])
    probability = np.array([1e-4, 1e-3, 1e-2])
    ratio = theory.signal_to_noise(10**6, n_words, probability)
    assert ratio.shape == (2, 3)
    for row, m in enumerate((100, 5_000)):
        for column, p in enumerate((1e-4, 1e-3, 1e-2)):
            expected = p * 1e6 / (1 + p * m + p**3 * m * 1e6)
            assert ratio[row, column] == pytest.approx(expected, rel=1e-14)
    assert isinstance(theory.signal_to_noise(10**6, 100, 1e-4), float)
    assert theory.signal_to_noise(10**6, 100, 0.0) == 0.0


def test_the_optimal_probability_is_a_maximum():
    best = theory.optimal_probability(10**6, 10**4)
    here, below, above = theory.signal_to_noise(10**6, 10**4, [best, best * 0.99, best * 1.01])
    assert here > max(below, above)


def test_the_published_radius_rule_can_miss_the_best_radius_by_one_bit():
    probabilities = theory.activation_probabilities(1000)
    ratios = theory.signal_to_noise(10**6, 10**4, probabilities)
    assert int(np.argmax(ratios)) == 446
    assert theory.radius_for_signal_to_noise(1000, 10**6, 10**4) == 447
    assert ratios[[446, 447]].round(2).tolist() == [71.03, 70.29]


def test_bit_fidelity_is_the_normal_distribution_of_rho():
    n_words = [1, 1_000, 100_000]
    rho = np.sqrt(theory.signal_to_noise(10**6, n_words, 1e-3))
    expected = [NormalDist().cdf(value) for value in rho]
    np.testing.assert_allclose(theory.bit_fidelity(10**6, n_words, 1e-3), expected, rtol=1e-12)
    assert theory.bit_fidelity(10**6, 1, 0.0) == 0.5


@pytest.mark.parametrize("n_locations", [10**3, 10**6, 10**9, 2**64])
def test_capacity_at_a_fidelity_gives_that_fidelity(n_locations):
    for probability in (0.003, 0.05):
        n_words = n_locations * theory.capacity(0.99, n_locations, probability)
        if n_words >= 1:
            reached = theory.bit_fidelity(n_locations, n_words, probability)
            assert reached == pytest.approx(0.99, abs=1e-9)


def test_capacity_uses_the_best_probability():
    best = theory.capacity(0.999, 10**6)
    given = [theory.capacity(0.999, 10**6, p) for p in np.geomspace(1e-5, 1e-2, 400)]
    assert best == pytest.approx(max(given), rel=1e-4)
    assert best >= max(given)
    assert theory.capacity(0.999, 10**6, 1e-7) == 0.0


def test_finite_capacity_tends_to_the_asymptotic_one():
    shares = [theory.capacity(0.999, 10**k) for k in (4, 6, 9, 12, 18)]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(theory.capacity(0.999), rel=1e-4)
    assert theory.capacity(0.999) == pytest.approx(NormalDist().inv_cdf(0.999) ** -2, rel=1e-12)


def test_memory_capacity_is_where_a_whole_word_survives():
    n, r, p = 100, 10**5, 0.002
    m = theory.memory_capacity(n, r, p, recall_probability=0.9)
    # m − 1 other words make the noise; with them, each of the n bits is right with P^(1/n).
    bit = theory.bit_fidelity(r, m - 1, p)
    assert bit**n == pytest.approx(0.9, rel=1e-9)


def test_the_published_capacity_radius_is_next_to_the_best_one():
    probabilities = theory.activation_probabilities(1000)[400:500]
    capacities = [theory.memory_capacity(1000, 10**6, float(p)) for p in probabilities]
    assert abs(400 + int(np.argmax(capacities)) - theory.radius_for_capacity(1000, 10**6)) <= 1


def test_exact_moments_equal_simulation():
    # One bit of a stored word, read at a cue 5 bits away, in 4,000 memories of 200 locations with
    # 7 words. The bar is five standard errors, those of the variance from the fourth moment.
    n, n_locations, n_words, radius, distance, n_trials = 15, 200, 7, 5, 5, 4_000
    rng = np.random.default_rng(11)
    sums = np.empty(n_trials)
    for trial in range(n_trials):
        hard = rng.integers(0, 2, (n_locations, n))
        words = rng.integers(0, 2, (n_words, n))
        cue = words[0].copy()
        cue[:distance] ^= 1
        at_words = (hard[:, None, :] != words).sum(axis=2) <= radius
        at_cue = (hard != cue).sum(axis=1) <= radius
        signs = rng.choice([-1, 1], n_words)
        signs[0] = 1
        sums[trial] = signs @ (at_words & at_cue[:, None]).sum(axis=0)
    signal, deviation = critical._moments(n, float(n_locations), float(n_words), radius, "exact")
    mean, variance = signal[distance], deviation[distance] ** 2
    assert abs(sums.mean() - mean) < 5 * math.sqrt(variance / n_trials)
    spread = np.var((sums - sums.mean()) ** 2) / n_trials
    assert abs(sums.var() - variance) < 5 * math.sqrt(spread)
    # The theory with one mean overlap for all words is too low by more than the bar.
    _, independent = critical._moments(n, float(n_locations), float(n_words), radius, "independent")
    assert independent[distance] ** 2 + mean < variance


def test_the_normal_approximation_is_the_bivariate_integral():
    n, radius = 1000, 451
    threshold = (n / 2 - radius) / (math.sqrt(n) / 2)
    overlap = critical._normal_overlap(n, radius)
    for distance in (0, 10, 100, 500):
        # Kanerva's integral, with x = sin²(angle), by the midpoint rule.
        low, high = math.asin(math.sqrt(distance / n)), math.pi / 2
        angles = low + (high - low) * (np.arange(20_000) + 0.5) / 20_000
        heights = np.exp(-0.5 * (threshold / np.cos(angles)) ** 2) / math.pi
        assert overlap[distance] == pytest.approx(heights.mean() * (high - low), rel=1e-6)
    assert overlap[1000] == 0.0


@pytest.mark.parametrize("variance", ["exact", "independent", "simplified"])
def test_critical_distance_is_a_fixed_point(variance):
    distance = theory.critical_distance(1000, 10**6, 5_000, 451, variance=variance)
    quality = critical._quality(1000, 1e6, 5e3, 451, variance)
    read = [1000 * NormalDist().cdf(-value) for value in quality]
    assert read[distance] < distance
    assert read[distance + 1] >= distance + 1
    assert all(read[d] < d for d in range(1, distance))


def test_critical_distance_falls_with_the_load():
    loads = (1, 100, 1_000, 10_000, 30_000, 40_000, 50_000, 10**6)
    distances = [theory.critical_distance(1000, 10**6, load, 451) for load in loads]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] == 500
    assert distances[-2:] == [0, 0]


def test_a_memory_without_active_locations_recalls_nothing():
    for variance in ("exact", "independent", "simplified"):
        assert theory.critical_distance(3000, 10, 5, 1, variance=variance) == 0


def test_a_memory_that_activates_everything_recalls_only_its_last_word():
    assert theory.critical_distance(64, 10_000, 1_000, 64) == 0


def test_radius_for_critical_distance_with_the_exact_variance():
    reach = [theory.critical_distance(64, 10**5, 100, r) for r in range(33)]
    best = theory.radius_for_critical_distance(64, 10**5, 100, variance="exact")
    assert reach[best] == max(reach)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theory.signal_to_noise(0, 1, 0.1),
            r"^signal_to_noise: `n_locations` must be at least 1, got 0$",
        ),
        (
            lambda: theory.signal_to_noise(10, [1, 0], 0.1),
            r"^signal_to_noise: `n_words` must be finite and at least 1, got 0.0$",
        ),
        (
            lambda: theory.signal_to_noise(10, 1, [0.5, 1.5]),
            r"^signal_to_noise: `probability` must be in \[0, 1\], got 1.5$",
        ),
        (
            lambda: theory.signal_to_noise(10, "many", 0.1),
            r"^signal_to_noise: `n_words` must be numbers, got 'many'$",
        ),
        (
            lambda: theory.bit_fidelity(10, math.inf, 0.1),
            r"^bit_fidelity: `n_words` must be finite and at least 1, got inf$",
        ),
        (
            lambda: theory.bit_fidelity(10, True, 0.1),
            r"^bit_fidelity: `n_words` must be numbers, got True$",
        ),
        (
            lambda: theory.optimal_probability(10, 0.5),
            r"^optimal_probability: `n_words` must be (at least 1|in \[1, inf\]), got 0.5$",
        ),
        (
            lambda: theory.radius_for_signal_to_noise(0, 10, 1),
            r"^radius_for_signal_to_noise: `address_bits` must be at least 1, got 0$",
        ),
        (lambda: theory.capacity(0.5), r"^capacity: `fidelity` must be in \(0.5, 1\), got 0.5$"),
        (
            lambda: theory.capacity("high"),
            r"^capacity: `fidelity` must be a number, got 'high'$",
        ),
        (
            lambda: theory.capacity(0.9, 0),
            r"^capacity: `n_locations` must be at least 1, got 0$",
        ),
        (
            lambda: theory.capacity(0.9, probability=0.1),
            r"^capacity: `n_locations` must be given with a probability, got None$",
        ),
        (
            lambda: theory.capacity(0.9, 10, 1.0),
            r"^capacity: `probability` must be in \(0, 1\), got 1.0$",
        ),
        (
            lambda: theory.memory_capacity(10, 10, 0.0),
            r"^memory_capacity: `probability` must be in \(0, 1\), got 0.0$",
        ),
        (
            lambda: theory.memory_capacity(2, 10, 0.1, 0.25),
            (
                r"^memory_capacity: `recall_probability` must be above 2\^-2, which is chance, "
                r"got 0.25$"
            ),
        ),
        (
            lambda: theory.radius_for_capacity(10, 10, 1.0),
            r"^radius_for_capacity: `recall_probability` must be in \(0, 1\), got 1.0$",
        ),
        (
            lambda: theory.critical_distance(1, 10, 1, 0),
            r"^critical_distance: `address_bits` must be at least 2, got 1$",
        ),
        (
            lambda: theory.critical_distance(10, 10, 1, 11),
            r"^critical_distance: `radius` must be in \[0, 10\], got 11$",
        ),
        (
            lambda: theory.critical_distance(10, 10, 0, 3),
            r"^critical_distance: `n_words` must be (at least 1|in \[1, inf\]), got 0.0$",
        ),
        (
            lambda: theory.critical_distance(10, 10, 1, 3, variance="best"),
            (
                r"^critical_distance: `variance` must be one of 'exact', 'independent', "
                r"'simplified', got 'best'$"
            ),
        ),
        (
            lambda: theory.radius_for_critical_distance(10, 10, 1, variance="simplified"),
            (
                r"^radius_for_critical_distance: `variance` must be one of 'exact', 'independent', "
                r"got 'simplified'$"
            ),
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()

"""Signal, noise, capacity and critical distance, against their definitions and a simulation."""

import math
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

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


def wrong_bits(n_locations, n_words, probability, flipped_share):
    signal = 1 - 2 * flipped_share
    variance = probability * n_words * (1 + signal**2 * probability**2 * n_locations)
    variance += 1 - signal**2
    active = np.arange(n_locations + 1)
    wrong = stats.norm.sf(signal * np.sqrt(active / variance))
    return float(stats.binom.pmf(active, n_locations, probability) @ wrong)


@pytest.mark.parametrize(
    "load",
    [
        (1, 1, 0.999, 0.0),
        (3, 2, 0.5, 0.4),
        (101, 1, 1e-9, 0.0),
        (10_007, 10_000, 0.001, 0.2),
        (1_000_003, 200_000, 0.001, 0.0),
        (1_000_003, 30_000, 0.9, 0.7),
    ],
)
def test_mean_bit_fidelity_is_the_mean_over_the_binomial(load):
    expected = 1 - wrong_bits(*load)
    assert theory.mean_bit_fidelity(*load) == pytest.approx(expected, rel=1e-11)


def test_mean_bit_fidelity_of_special_cases():
    assert theory.mean_bit_fidelity(10, 5, 0.0) == 0.5
    assert theory.mean_bit_fidelity(10, 5, 5e-324) == 0.5
    assert theory.mean_bit_fidelity(10, 5, 0.1, flipped_share=0.5) == pytest.approx(0.5, rel=1e-15)
    everything = NormalDist().cdf(math.sqrt(10 / (5 * 11)))
    assert theory.mean_bit_fidelity(10, 5, 1.0) == pytest.approx(everything, rel=1e-14)
    upside_down = theory.mean_bit_fidelity(1000, 50, 0.1, flipped_share=0.8)
    turned = theory.mean_bit_fidelity(1000, 50, 0.1, flipped_share=0.2)
    assert upside_down == pytest.approx(1 - turned, rel=1e-12)


def test_mean_bit_fidelity_with_so_many_locations_that_the_binomial_is_normal():
    # The spread of the number of active locations, 25,000 here, decides between the two sums.
    exact = theory.mean_bit_fidelity(2_499_990_000, 10**9, 0.5)
    normal = theory.mean_bit_fidelity(2_500_010_000, 10**9, 0.5)
    assert exact == pytest.approx(normal, rel=1e-9)
    # One location in a million is active: the noise is that of the words alone.
    expected = NormalDist().cdf(math.sqrt(1e15 / 1e15 / (1 + 1e-12 * 1e21)))
    assert theory.mean_bit_fidelity(10**21, 10**21, 1e-6) == pytest.approx(expected, rel=1e-8)


def test_mean_bit_fidelity_equals_simulation():
    # Words read at their own addresses in 300 memories of 2,000 locations: five standard errors
    # over the memories, and .003 for sums of so few words, which are not quite normal.
    n_locations, n_words, probability, flipped, n_trials = 2_000, 150, 0.01, 0.1, 300
    rng = np.random.default_rng(3)
    right = np.empty(n_trials)
    for trial in range(n_trials):
        active = (rng.random((n_words, n_locations)) < probability).astype(float)
        words = rng.choice([-1.0, 1.0], (n_words, 40))
        contents = active.T @ words
        contents[rng.random(contents.shape) < flipped] *= -1
        sums = (active @ contents) * words
        right[trial] = (sums > 0).mean() + 0.5 * (sums == 0).mean()
    expected = theory.mean_bit_fidelity(n_locations, n_words - 1, probability, flipped)
    assert abs(right.mean() - expected) < 5 * right.std() / math.sqrt(n_trials) + 0.003


@pytest.mark.parametrize("n_locations", [2**200, 10**100])
def test_huge_memories(n_locations):
    M = Fraction(n_locations)
    p = Fraction(1, 1000)
    ratio = p * M / (1 + p * M * (1 + p * p * M))
    assert theory.signal_to_noise(n_locations, n_locations, 0.001) == pytest.approx(
        float(ratio), rel=1e-12
    )
    # The two conditions on the best probabilities, as sums of equal terms.
    best = Fraction(theory.optimal_probability(n_locations, 10**100))
    assert float(2 * M * 10**100 * best**3) == pytest.approx(1, rel=1e-10)
    z = NormalDist().inv_cdf(0.9)
    assert theory.capacity(0.9, n_locations) == pytest.approx(z**-2, rel=1e-6)
    radius = theory.radius_for_capacity(1000, n_locations)
    per_bit = NormalDist().inv_cdf(0.5 ** (1 / 1000))
    first = (per_bit**2 / (2 * float(M) ** 2)) ** (1 / 3)
    wanted = max(first, 1.5 * per_bit**2 / float(M))
    assert theory.activation_probability(1000, radius) >= wanted
    assert theory.activation_probability(1000, radius - 2) < wanted
    assert theory.radius_for_signal_to_noise(1000, n_locations, 10**100) < 451
    assert theory.mean_bit_fidelity(n_locations, 10, 0.5) > 0.5


@pytest.mark.parametrize(("n_words", "variance"), [(1, "exact"), (7, "exact"), (9, "independent")])
def test_the_quality_of_a_huge_memory_is_right(n_words, variance):
    n, radius, n_locations = 61, 20, 10**100
    counts = theory.circle_intersections(n, radius)
    shares = [Fraction(count, 2**n) for count in counts]
    quality = critical._quality(n, float(n_locations), float(n_words), radius, variance)
    other = sum(
        Fraction(math.comb(n, d), 2**n) * (n_locations * s * (1 - s) + (n_locations * s) ** 2)
        for d, s in enumerate(shares)
    )
    for share, found in zip(shares, quality, strict=True):
        if variance == "exact":
            noise = (n_words - 1) * other + n_locations * share * (1 - share)
        else:
            noise = n_words * shares[0] ** 2 * n_locations * (1 + shares[0] ** 2 * n_locations)
        expected = float((n_locations * share) ** 2 / noise) ** 0.5 if share else 0.0
        assert found == pytest.approx(expected, rel=1e-9)


def test_the_critical_distance_of_a_huge_memory():
    # The more locations, the nearer to the limit of infinitely many, which 10^30 has reached.
    for variance in ("exact", "independent"):
        found = [
            theory.critical_distance(1000, 10**k, 1000, 451, variance=variance)
            for k in (6, 30, 60, 100)
        ]
        assert found[0] > 0
        assert found[1:] == found[1:2] * 3
        assert theory.critical_distance(1000, 10**100, 10**100, 451, variance=variance) == 0
    assert theory.radius_for_critical_distance(64, 10**100, 1024) <= 32


def test_the_quantile_of_a_bit_keeps_its_digits_in_long_words():
    # The share of wrong bits is 1e-6 / 10^12, beyond the last digit of a share of right ones.
    capacity = theory.memory_capacity(10**12, 10**6, 0.001, recall_probability=1 - 1e-6)
    z = -NormalDist().inv_cdf(-math.log1p(-1e-6) / 1e12)
    expected = (1000 / z**2 - 1) / (0.001 * 2) + 1
    assert capacity == pytest.approx(expected, rel=1e-9)


TOO_MANY = [
    (lambda n: theory.signal_to_noise(n, 1, 0.1), "signal_to_noise"),
    (lambda n: theory.optimal_probability(n, 1), "optimal_probability"),
    (lambda n: theory.radius_for_signal_to_noise(10, n, 1), "radius_for_signal_to_noise"),
    (lambda n: theory.bit_fidelity(n, 1, 0.1), "bit_fidelity"),
    (lambda n: theory.mean_bit_fidelity(n, 1, 0.1), "mean_bit_fidelity"),
    (lambda n: theory.capacity(0.9, n), "capacity"),
    (lambda n: theory.memory_capacity(10, n, 0.1), "memory_capacity"),
    (lambda n: theory.radius_for_capacity(10, n), "radius_for_capacity"),
    (lambda n: theory.critical_distance(10, n, 1, 3), "critical_distance"),
    (lambda n: theory.radius_for_critical_distance(10, n, 1), "radius_for_critical_distance"),
]


@pytest.mark.parametrize(("call", "name"), TOO_MANY)
def test_too_many_locations(call, name):
    for n_locations, shown in ((2**1000, "1e301"), (10**400, "1e400"), (10**6000, "1e6000")):
        message = rf"^{name}: `n_locations` must be at most 1e\+100, got {shown} or so$"
        with pytest.raises(ArgumentError, match=message):
            call(n_locations)


TOO_MANY_WORDS = [
    (lambda n: theory.signal_to_noise(10, n, 0.1), "signal_to_noise"),
    (lambda n: theory.bit_fidelity(10, [1, n], 0.1), "bit_fidelity"),
    (lambda n: theory.mean_bit_fidelity(10, n, 0.1), "mean_bit_fidelity"),
    (lambda n: theory.optimal_probability(10, n), "optimal_probability"),
    (lambda n: theory.radius_for_signal_to_noise(10, 10, n), "radius_for_signal_to_noise"),
    (lambda n: theory.critical_distance(10, 10, n, 3), "critical_distance"),
    (lambda n: theory.radius_for_critical_distance(10, 10, n), "radius_for_critical_distance"),
]


@pytest.mark.parametrize(("call", "name"), TOO_MANY_WORDS)
def test_too_many_words(call, name):
    for n_words, shown in ((1e101, r"1e\+101"), (10**400, "1e400 or so")):
        message = rf"^{name}: `n_words` must be in \[1, 1e\+100\], got {shown}$"
        with pytest.raises(ArgumentError, match=message):
            call(n_words)


def test_tensors_are_accepted():
    torch = pytest.importorskip("torch")
    n_words = torch.tensor([[100.0], [5_000.0]], requires_grad=True)
    probability = torch.tensor([0.5, 0.25, 0.125])
    given = theory.bit_fidelity(10**6, n_words, probability)
    expected = theory.bit_fidelity(10**6, [[100], [5_000]], [0.5, 0.25, 0.125])
    assert given.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theory.signal_to_noise(10, [1, 2], [0.1, 0.2, 0.3]),
            (
                r"^signal_to_noise: `probability` must broadcast with `n_words` of shape \(2,\), "
                r"got shape \(3,\)$"
            ),
        ),
        (
            lambda: theory.bit_fidelity(10, [[1, 2]], [0.1, 0.2, 0.3]),
            (
                r"^bit_fidelity: `probability` must broadcast with `n_words` of shape \(1, 2\), "
                r"got shape \(3,\)$"
            ),
        ),
        (
            lambda: theory.signal_to_noise(10, [[1], [1, 2]], 0.1),
            r"^signal_to_noise: `n_words` must be numbers, got \[\[1\], \[1, 2\]\]$",
        ),
        (
            lambda: theory.signal_to_noise(10, 1j, 0.1),
            r"^signal_to_noise: `n_words` must be numbers, got 1j$",
        ),
        (
            lambda: theory.signal_to_noise(10, 10**30, [0.5, None]),
            r"^signal_to_noise: `probability` must be numbers, got \[0.5, None\]$",
        ),
        (
            lambda: theory.mean_bit_fidelity(10, 1, 1.5),
            r"^mean_bit_fidelity: `probability` must be in \[0.0, 1.0\], got 1.5$",
        ),
        (
            lambda: theory.mean_bit_fidelity(10, 1, 0.5, flipped_share=-0.1),
            r"^mean_bit_fidelity: `flipped_share` must be in \[0.0, 1.0\], got -0.1$",
        ),
        (
            lambda: theory.signal_to_noise(0, 1, 0.1),
            r"^signal_to_noise: `n_locations` must be at least 1, got 0$",
        ),
        (
            lambda: theory.signal_to_noise(10, [1, 0], 0.1),
            r"^signal_to_noise: `n_words` must be in \[1, 1e\+100\], got 0.0$",
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
            r"^bit_fidelity: `n_words` must be in \[1, 1e\+100\], got inf$",
        ),
        (
            lambda: theory.bit_fidelity(10, True, 0.1),
            r"^bit_fidelity: `n_words` must be numbers, got True$",
        ),
        (
            lambda: theory.optimal_probability(10, 0.5),
            r"^optimal_probability: `n_words` must be in \[1, 1e\+100\], got 0.5$",
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
            r"^critical_distance: `n_words` must be in \[1, 1e\+100\], got 0.0$",
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

"""Activation probabilities: Kanerva 1988 (radius 451), Jaeckel 1989, and recomputed thresholds."""

import numpy as np
import pytest

from pentti import CosineCap, theory
from pentti.errors import SettingWarning


@pytest.mark.parametrize(
    ("address_bits", "radius", "probability"),
    [
        (1000, 447, ".000445"),
        (1000, 450, ".000865"),
        (1000, 451, ".00107185"),
        (1000, 460, ".00622"),
        (1000, 463, ".010464"),
        (256, 103, ".0010668"),
        (256, 112, ".02624"),
        (100, 35, ".00176"),
    ],
)
def test_hamming_balls(address_bits, radius, probability, printed):
    assert theory.activation_probability(address_bits, radius) == printed(probability)


def test_one_percent_is_463_bits_and_not_451():
    assert theory.radius_for(1000, 0.01) == 463
    assert theory.radius_for(1000, 0.001) == 451


@pytest.mark.parametrize(
    ("dim", "probability", "cosine"),
    [
        (512, 0.01, ".1027"),
        (512, 0.001, ".1361"),
        (384, 0.01, ".1185"),  # .11853
        (64, 0.01, ".288"),
    ],
)
def test_cosine_thresholds(dim, probability, cosine, printed):
    assert theory.cosine_for(dim, probability) == printed(cosine)


@pytest.mark.parametrize(("dim", "probability"), [(512, "4.2e-34"), (64, "1.1e-5")])
def test_a_cosine_above_one_half_activates_nothing(dim, probability, printed):
    assert theory.cap_probability(dim, 0.5) == printed(probability)
    with pytest.warns(SettingWarning, match="most reads find nothing"):
        decoder = CosineCap(dim, 100, threshold=0.5)
    assert decoder.activation_probability == printed(probability)


def test_a_cap_asked_for_one_percent_has_the_threshold_that_gives_it(generator, printed):
    """In 512 dimensions, .1027 activates 1 %, to five standard errors over addresses."""
    decoder = CosineCap(512, 2000, activation_probability=0.01)
    assert decoder.threshold == printed(".1027")
    share = decoder(decoder.random_addresses(400, generator=generator)).meter.double() / 2000
    assert abs(share.mean() - 0.01) < 5 * share.std() / 400**0.5


def test_selected_coordinates():
    probability = theory.selected_coordinates_probability(10)
    assert probability == 2.0**-10
    still_active = theory.selected_coordinates_overlap(1000, 10, [0, 100, 500]) / probability
    # C(1000 − d, 10) / C(1000, 10), written as a product.
    by_hand = [np.prod((1000 - d - np.arange(10)) / (1000 - np.arange(10))) for d in (0, 100, 500)]
    np.testing.assert_allclose(still_active, by_hand, rtol=1e-13)


def test_hyperplane(printed):
    assert theory.hyperplane_probability(1000, 100, 3) == printed(".001")

"""One suite that every decoder passes, and what is special to each."""

import math

import pytest
import torch

from pentti import (
    CosineCap,
    HammingBall,
    Hyperplane,
    ProductKeys,
    SelectedCoordinates,
    bits,
    decoders,
    theory,
)
from pentti.activation import Activation
from pentti.errors import ArgumentError, SettingWarning


def square(m):
    return math.isqrt(m) ** 2


DECODERS = {
    "ball": lambda m, seed=0: HammingBall(257, m, activation_probability=0.02, seed=seed),
    "ball-at": lambda m, seed=0: HammingBall.at(
        bits.random(m, 65, generator=torch.Generator().manual_seed(seed)), radius=26
    ),
    "coordinates": lambda m, seed=0: SelectedCoordinates(130, m, n_selected=5, seed=seed),
    "hyperplane": lambda m, seed=0: Hyperplane(200, m, n_ones=40, n_selected=2, seed=seed),
    "cosine-threshold": lambda m, seed=0: CosineCap(65, m, threshold=0.25, seed=seed),
    "cosine-probability": lambda m, seed=0: CosineCap(
        33, m, activation_probability=0.03, seed=seed
    ),
    "cosine-at": lambda m, seed=0: CosineCap.at(
        torch.randn(m, 17, generator=torch.Generator().manual_seed(seed)), threshold=0.4
    ),
    "cosine-top-k": lambda m, seed=0: CosineCap(35, m, top_k=m // 50, seed=seed),
    "product-threshold": lambda m, seed=0: ProductKeys(66, square(m), threshold=0.25, seed=seed),
    "product-top-k": lambda m, seed=0: ProductKeys(
        130, square(m), top_k=m // 50, learned=True, seed=seed
    ),
    "product-heads": lambda m, seed=0: ProductKeys(
        78, square(m), activation_probability=0.05, n_heads=3, seed=seed
    ),
}


@pytest.fixture(params=DECODERS)
def make(request):
    return DECODERS[request.param]


def test_a_decoder_keeps_the_protocol(make, generator):
    check_decoder(make(2003), generator)


def check_decoder(decoder, generator):
    """What any decoder promises, whatever it does inside."""
    assert isinstance(decoder, decoders.Decoder)
    addresses = decoder.random_addresses(301, generator=generator)
    assert addresses.shape == (301, decoder.address_width)
    assert addresses.dtype == (torch.bool if binary(decoder) else torch.float32)
    before = addresses.clone()
    activation = decoder(addresses)
    assert torch.equal(addresses, before)
    check_activation(activation, 301, decoder.n_locations)
    check_probability(decoder, activation)
    check_batches(decoder, addresses, activation)
    check_overlap_at_zero(decoder)


def binary(decoder):
    return hasattr(decoder, "address_bits")


def check_activation(activation, n_addresses, n_locations):
    assert activation.n_locations == n_locations
    assert activation.offsets[0] == 0
    assert activation.offsets[-1] == len(activation.locations)
    assert len(activation.meter) == n_addresses
    assert activation.locations.min() >= 0
    assert activation.locations.max() < n_locations
    rising = activation.locations.diff() > 0
    same_row = activation.rows.diff() == 0
    assert rising[same_row].all()


def check_probability(decoder, activation):
    """The measured share equals the exact one, to five standard errors.

    The cells of a product key's grid are correlated, and so the error is measured over addresses:
    those are independent, and the share that each expects is p whatever the hard addresses are,
    since a random address lies in all directions alike. Top-k leaves no spread at all.
    """
    share = activation.meter.double() / decoder.n_locations
    error = share.std().item() / len(share) ** 0.5
    assert abs(share.mean().item() - decoder.activation_probability) < 5 * error + 1e-12
    assert decoder.typical_meter == pytest.approx(float(activation.meter.double().mean()), rel=0.2)


def check_batches(decoder, addresses, activation):
    for row in (0, 17, 300):
        alone = decoder(addresses[row])
        entries = slice(activation.offsets[row], activation.offsets[row + 1])
        assert torch.equal(alone.locations, activation.locations[entries])
    array = addresses.int().numpy() if binary(decoder) else addresses.numpy()
    assert torch.equal(decoder(array).locations, activation.locations)
    nothing = decoder(addresses[:0])
    assert nothing.offsets.tolist() == [0]
    assert nothing.meter.tolist() == []


def check_overlap_at_zero(decoder):
    p = decoder.activation_probability
    same = 0 if binary(decoder) else 1.0
    assert decoder.overlap([same]).tolist() == pytest.approx([p], rel=1e-9)


def test_the_overlap_curve_is_what_is_measured(make, generator):
    decoder = make(20_011)
    address = decoder.random_addresses(200, generator=generator)
    active = decoder(address).dense().bool()
    for apart in (2, 10, 40) if binary(decoder) else (0.95, 0.7, 0.3):
        other = moved(decoder, address, apart, generator)
        n_shared = (active & decoder(other).dense().bool()).sum(1).double()
        expected = decoder.overlap([apart]).item() * decoder.n_locations
        error = n_shared.std().item() / len(n_shared) ** 0.5
        if binary(decoder):
            # The hard locations are one sample of their own, common to all pairs.
            error = max(error, (expected / len(n_shared)) ** 0.5)
        assert abs(n_shared.mean().item() - expected) < 5 * error


def moved(decoder, address, apart, generator):
    """Other addresses, each so many bits, or at such a cosine, from the given one."""
    if isinstance(decoder, Hyperplane):  # keep the number of ones
        return swap(address, apart // 2, generator)
    if binary(decoder):
        return bits.flip(address, apart, generator=generator)
    part = address.unflatten(1, (-1, decoder.part_width))
    part = part / part.norm(dim=-1, keepdim=True)
    other = torch.randn(part.shape, generator=generator)
    other -= (other * part).sum(-1, keepdim=True) * part
    other *= (1 - apart**2) ** 0.5 / other.norm(dim=-1, keepdim=True)
    return (apart * part + other).flatten(1)


def test_the_activation_count_is_binomial(generator):
    """Mean and variance of the count over random cues, each to five standard errors."""
    m, n = 20_000, 2000
    decoder = HammingBall(1000, m, activation_probability=0.005, seed=3)
    count = decoder(bits.random(n, 1000, generator=generator)).meter.double()
    p = decoder.activation_probability
    variance = m * p * (1 - p)
    assert abs(count.mean() - m * p) < 5 * (variance / n) ** 0.5
    assert abs(count.var() - variance) < 5 * variance * (2 / n) ** 0.5


def swap(address, n, generator):
    """Turn n ones to zeros and n zeros to ones."""
    noise = torch.rand(address.shape, generator=generator)
    off = noise.masked_fill(~address, 2).argsort(-1).argsort(-1) < n
    on = noise.masked_fill(address, 2).argsort(-1).argsort(-1) < n
    return address ^ off ^ on


def test_a_seed_decides_everything(make, generator):
    address = make(500).random_addresses(50, generator=generator)
    one, same, other = make(500)(address), make(500)(address), make(500, seed=1)(address)
    assert torch.equal(one.locations, same.locations)
    assert not torch.equal(one.locations, other.locations)


def test_a_decoder_comes_back_from_config_and_state(make, generator):
    decoder = make(301, seed=4)
    again = decoders.restore(decoder.config(), decoder.state_dict())
    address = decoder.random_addresses(50, generator=generator)
    assert torch.equal(decoder(address).locations, again(address).locations)
    assert again.activation_probability == decoder.activation_probability
    assert repr(again) == repr(decoder)


def test_restore_refuses_an_unknown_kind():
    with pytest.raises(ArgumentError, match=r"`decoder` must be one of 'HammingBall', .* got 'X'"):
        decoders.restore({"decoder": "X"}, {})


def test_bad_cues_are_named(make, generator):
    decoder = make(64)
    n = decoder.address_width
    with pytest.raises(ArgumentError, match=rf"`address` must have shape \(…, {n}\), got shape"):
        decoder(torch.zeros(2, n + 1))
    with pytest.raises(ArgumentError, match=rf"`address` must have shape \(…, {n}\), got a zero"):
        decoder(torch.tensor(1))
    message = "hold only 0 and 1" if binary(decoder) else "be finite in torch.float32"
    with pytest.raises(ArgumentError, match=rf"`address` must {message}, got nan"):
        decoder(torch.full((n,), torch.nan))
    with pytest.raises(ArgumentError, match="`address` must be on cpu, got meta"):
        decoder(torch.zeros(n, device="meta"))
    with pytest.raises(ArgumentError, match="must be at least 0, got -1"):
        decoder.random_addresses(-1, generator=generator)


def test_the_ball_is_the_ball(generator):
    decoder = HammingBall(65, 300, radius=27, seed=2)
    address = bits.random(9, 65, generator=generator)
    distances = bits.hamming_distance(address[:, None], decoder.hard_addresses)
    assert torch.equal(decoder(address).dense(), distances <= 27)


def test_a_location_asks_for_its_selected_values(generator):
    decoder = SelectedCoordinates(65, 300, n_selected=3, seed=2)
    address = bits.random(9, 65, generator=generator)
    matches = (address[:, decoder.coordinates.long()] == decoder.wanted_values).all(-1)
    assert torch.equal(decoder(address).dense(), matches)
    assert 0.4 < decoder.wanted_values.double().mean() < 0.6


@pytest.mark.parametrize(("width", "n_selected"), [(1, 1), (5, 5), (65, 3)])
def test_selected_coordinates_are_distinct_and_even(width, n_selected):
    coordinates = SelectedCoordinates(width, 6500, n_selected=n_selected).coordinates
    in_order = coordinates.sort(1).values
    assert (in_order.diff(dim=1) > 0).all()
    counts = torch.bincount(coordinates.flatten(), minlength=width).double()
    p = n_selected / width
    assert (abs(counts - 6500 * p) <= 5 * (6500 * p * (1 - p)) ** 0.5).all()


def test_the_hyperplane_asks_for_ones(generator):
    decoder = Hyperplane(65, 300, n_ones=20, n_selected=2, seed=2)
    assert decoder.wanted_values.all()
    address = decoder.random_addresses(9, generator=generator)
    assert (address.sum(1) == 20).all()
    matches = address[:, decoder.coordinates.long()].all(-1)
    assert torch.equal(decoder(address).dense(), matches)


def test_a_ball_of_wanted_probability_reports_what_it_got():
    decoder = HammingBall(1000, 500, activation_probability=0.01)
    assert decoder.radius == 463
    assert decoder.activation_probability == theory.activation_probability(1000, 463)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "`radius` must be given, or `activation_probability`, and not both, got neither"),
        (
            {"radius": 3, "activation_probability": 0.1},
            "`radius` must be given, or `activation_probability`, and not both, got both",
        ),
        ({"radius": 11}, r"HammingBall: `radius` must be in \[0, 10\], got 11$"),
        ({"radius": -1}, r"HammingBall: `radius` must be in \[0, 10\], got -1$"),
        ({"radius": 2.5}, r"HammingBall: `radius` must be an integer in \[0, 10\], got 2.5$"),
        ({"activation_probability": 0.0}, r"`activation_probability` must be in \(0, 1\), got 0"),
        ({"activation_probability": 1.0}, r"`activation_probability` must be in \(0, 1\), got 1"),
        ({"activation_probability": float("nan")}, "`activation_probability` must be finite"),
        ({"radius": 3, "n_locations": 0}, "`n_locations` must be at least 1, got 0"),
        ({"radius": 3, "address_bits": 0}, "`address_bits` must be at least 1, got 0"),
        ({"radius": 3, "seed": -1}, "`seed` must be in"),
    ],
)
def test_bad_settings_of_a_ball_are_named(settings, message):
    with pytest.raises(ArgumentError, match=message):
        HammingBall(**{"address_bits": 10, "n_locations": 100, **settings})


@pytest.mark.parametrize("hard", [torch.zeros(0, 5), torch.zeros(5), torch.zeros(2, 3, 4)])
def test_a_ball_needs_a_matrix_of_addresses(hard):
    with pytest.raises(ArgumentError, match=r"`hard_addresses` must have shape \(locations, bits"):
        HammingBall.at(hard, radius=1)


def test_bad_settings_of_jaeckels_decoders_are_named():
    with pytest.raises(ArgumentError, match=r"`n_selected` must be in \[1, 10\], got 11"):
        SelectedCoordinates(10, 100, n_selected=11)
    with pytest.raises(ArgumentError, match=r"`n_selected` must be in \[1, 10\], got 0"):
        Hyperplane(10, 100, n_ones=5, n_selected=0)
    with pytest.raises(ArgumentError, match=r"Hyperplane: `n_ones` must be in \[3, 10\], got 2"):
        Hyperplane(10, 100, n_ones=2, n_selected=3)


def test_a_dead_setting_is_warned_of_and_a_good_one_named():
    with pytest.warns(SettingWarning, match=r"radius=250 activates .* of 1000 .* radius=\d+ would"):
        HammingBall(1000, 1000, radius=250)
    with pytest.warns(SettingWarning, match=r"n_selected=20 activates .*; n_selected=\d would"):
        SelectedCoordinates(1000, 1000, n_selected=20)
    with pytest.warns(SettingWarning, match=r"n_selected=9 activates .*; n_selected=8 would"):
        Hyperplane(1000, 1000, n_ones=100, n_selected=9)


def test_a_warning_never_names_the_setting_that_was_given():
    with pytest.warns(SettingWarning, match="more hard locations would activate more"):
        HammingBall(10, 1, radius=5)
    with pytest.warns(SettingWarning, match="more hard locations would activate more"):
        SelectedCoordinates(10, 1, n_selected=1)


def test_hard_addresses_that_are_data_bring_no_warning_and_tell_their_own_meter():
    decoder = HammingBall.at(torch.zeros(500, 1000), radius=3)
    assert decoder.typical_meter == 500


def test_an_activation_is_a_sparse_matrix():
    weights = torch.tensor([0.5, 2.0, 3.0])
    activation = Activation(torch.tensor([0, 3, 1]), torch.tensor([0, 2, 2, 3]), 4, weights)
    assert activation.meter.tolist() == [2, 0, 1]
    assert activation.dense().tolist() == [[0.5, 0, 0, 2], [0, 0, 0, 0], [0, 3, 0, 0]]
    assert activation.total_weight.tolist() == [2.5, 0, 3]
    again = activation.weighted(torch.tensor([2.0, 0, 0, 1]))
    assert again.weights.tolist() == [1, 2, 0]
    assert activation.weighted(None) is activation
    bag = torch.nn.functional.embedding_bag(
        activation.locations,
        torch.eye(4),
        activation.offsets,
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )
    assert torch.equal(bag, activation.dense())

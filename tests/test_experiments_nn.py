"""The experiments on layers: their parts at small sizes, and their verdicts on made-up numbers."""

import numpy as np
import pytest
import torch
from helpers import outcome_of
from torch.nn import functional

from pentti.decoders import CosineCap, ProductKeys
from pentti.experiments import activation, continual, layer_cost, pair_learning, pairs
from pentti.experiments.finding import Order
from pentti.nn import SDMLayer


def test_the_count_agrees_with_random_projections():
    n, width = 500, pair_learning.WIDTH
    generator = torch.Generator().manual_seed(1)
    recalled = []
    for _ in range(20):
        value = torch.randn((n, width), generator=generator, dtype=torch.float64)
        value = functional.normalize(value, dim=1)
        basis = torch.linalg.qr(torch.randn((n, 70), generator=generator, dtype=torch.float64)).Q
        output = basis @ (basis.T @ value)
        nearest = (output @ value.T).argmax(1)
        recalled.append((nearest == torch.arange(n)).double().mean().item())
    error = np.std(recalled, ddof=1) / 20**0.5
    expected = pair_learning.expected_recall(70, n)
    assert 0.1 < expected < 0.9
    assert abs(np.mean(recalled) - expected) < 5 * error + 0.01  # rows differ in their share


def test_the_count_at_its_ends():
    assert pair_learning.expected_recall(100, 100) == pytest.approx(1.0, abs=1e-12)
    assert pair_learning.expected_recall(300, 100) == pytest.approx(1.0, abs=1e-12)
    assert pair_learning.expected_recall(1e-9, 10_000) == pytest.approx(1e-4, rel=0.2)
    counts = [pair_learning.expected_recall(f, 1000) for f in (20, 63, 200)]
    assert counts == sorted(counts)


def test_least_squares_beats_every_other_contents():
    layer = pair_learning.small_layer(49, 2)
    table = pair_learning.Pairs(65, 3)
    best = pair_learning.least_squares(layer, table)
    loss = (best - table.value).square().mean()
    for step in (1e-2, -1e-2):
        other = best.clone()
        with torch.no_grad():
            layer.contents.zero_()
            layer.contents[7] = step
            other += layer(table.key).output
        assert (other - table.value).square().mean() > loss


@pytest.mark.parametrize("optimiser", ["AdamW", "RowwiseAdagrad"])
def test_a_layer_learns_a_few_pairs(optimiser):
    rate = {"AdamW": 0.1, "RowwiseAdagrad": 1.0}[optimiser]
    recipe = pair_learning.Recipe(optimiser, memory_lr=rate, n_steps=30, batch=63)
    table = pair_learning.Pairs(130, 4)
    layer = pair_learning.small_layer(400, 5, sparse_gradients=optimiser != "AdamW")
    learned, yielded = outcome_of(pair_learning.learn_layer(layer, table, recipe, 3))
    assert learned.steps == [10, 20, 30]
    assert yielded == [1 / 3, 2 / 3, 1.0]
    assert learned.recalls[-1] > 0.95
    assert learned.seconds > 0
    assert learned.utilisation(table.key).share_used > 0.9


def test_the_callers_stream_and_threads_stay_as_they_were():
    before, n_threads = torch.get_rng_state(), torch.get_num_threads()
    first, again = (pair_learning.small_layer(49, 6) for _ in range(2))
    table = pair_learning.Pairs(7, 1)
    outcome_of(pair_learning.learn_perceptron(table, 5, 2, pair_learning.Recipe(n_steps=3)))
    with pair_learning.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == n_threads
    assert torch.equal(first.contents, again.contents)


def test_batches_take_every_pair_in_turn():
    table = pair_learning.Pairs(7, 1)
    batches = list(table.batches(5, 3))
    assert [len(batch) for batch in batches] == [3, 3, 1, 3, 3]
    assert sorted(torch.cat(batches[:3]).tolist()) == list(range(7))
    assert table.recall(table.value) == 1.0
    assert table.recall(-table.value) == 0.0


def test_multiplications_of_a_layer():
    layer = SDMLayer(64, n_locations=49, n_heads=2, top_k=3)
    assert pairs._cost(layer) == 64 * 64 + 2 * 7 * 2 * 16 + 2 * 3 * 64
    assert layer_cost._layer_multiplications(316) == 489_472
    assert layer_cost._attention_multiplications(1024) == 1_572_864


def test_the_pairs_section_is_whole_at_a_small_size(monkeypatch):
    small = pairs._Plan(200, 400, 20, 100, (50, 200), (10, 10), 50, 10)
    monkeypatch.setitem(pairs._PLANS, "quick", small)
    finding, steps = outcome_of(pairs.EXPERIMENT.run(Order()))
    shares = [step.share for step in steps]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert [len(table.rows) for table in finding.tables] == [5, 2, 5]
    assert finding.claims[1].holds  # least squares against the count
    assert finding.tables[1].rows[1][2] is None  # beyond what is solved
    for table in finding.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_forgetting_is_what_was_known_and_is_not():
    accuracy = np.zeros((2, 3, 3))
    accuracy[:, 0, 0] = 1.0
    accuracy[:, 1] = [0.5, 0.8, 0.0]
    accuracy[:, 2] = [[0.2, 0.6, 1.0], [0.4, 0.8, 1.0]]
    outcome = continual._Outcome(accuracy, np.array([0.5, 0.5]))
    assert outcome.forgetting == pytest.approx((0.8 + 0.2 + 0.6 + 0.0) / 4)
    assert outcome.final == pytest.approx([0.6, 2.2 / 3])
    assert outcome.error == pytest.approx((2.2 / 3 - 0.6) / 2)


def test_codings_have_length_one():
    pixels = torch.rand((30, 64), generator=torch.Generator().manual_seed(1))
    for coding, width in (("pixels", 64), ("centred", 64), ("on-off", 128)):
        coded = continual._coded(pixels, coding)
        assert coded.shape == (30, width)
        assert torch.linalg.vector_norm(coded, dim=1) == pytest.approx(torch.ones(30).numpy())
    on, off = continual._coded(pixels, "on-off").chunk(2, 1)
    assert (on >= 0).all()
    assert (on * off == 0).all()


def test_positive_weights_stay_positive_and_top_k_ends_where_it_should():
    plan = continual._Plan(n_locations=63, n_epochs=1, n_seeds=1)
    x = functional.normalize(torch.rand((1500, 11), generator=torch.Generator().manual_seed(2)))
    label = torch.arange(1500) % 10
    accuracy, used = continual._learn(continual._Way(), x, label, plan, 0)
    assert np.shape(accuracy) == (5, 5)
    assert 0 < used <= 1
    layer, scores = continual._model(continual._Way(), 11, 63, 0)
    anneal = continual._annealing(layer, plan)
    assert layer.decoder.top_k == 63
    for _ in range(anneal.n_steps):
        anneal.step()
    assert layer.decoder.top_k == 10
    with torch.no_grad():
        layer.contents.sub_(1)
    continual._confine(layer, positive=True)
    assert layer.contents.min() == 0
    assert scores(x[:3]).shape == (3, 10)


@pytest.mark.parametrize(("kind", "m"), [(CosineCap, 400), (ProductKeys, 400)])
def test_the_spread_of_the_meter_over_random_addresses(kind, m):
    meters = []
    for seed in range(60):
        decoder = kind(12, m, activation_probability=0.1, seed=seed)
        tokens = torch.randn((5, 12), generator=torch.Generator().manual_seed(seed))
        meters.append(decoder(tokens).meter.double())
    expected = activation._spread(decoder, decoder.threshold, 0.1)
    found = torch.cat(meters).std().item()
    assert abs(found / expected - 1) < 0.25
    independent = (m * 0.1 * 0.9) ** 0.5
    assert (expected > 1.5 * independent) is (kind is ProductKeys)


def test_a_popular_threshold_is_found_dead():
    dead = activation._try((ProductKeys, 64, 49, 0.9))
    assert dead.active == 0
    assert dead.largest_gradient == 0
    alive = activation._try((ProductKeys, 64, 49, 0.05))
    assert alive.active > 100
    assert alive.largest_gradient > 0


def lengths(*pairs_of):
    return [layer_cost._Length(128 * 4**i, *pair) for i, pair in enumerate(pairs_of)]


def test_where_attention_becomes_dearer():
    assert layer_cost._crossing(lengths((10, 5), (10, 20))) == pytest.approx(256)
    assert layer_cost._crossing(lengths((10, 5), (10, 6))) is None
    assert layer_cost._crossing(lengths((10, 11), (10, 20))) == 128


def test_costs_are_judged_by_the_count():
    numbers = [layer_cost._Number(4**i, 10 * 1.5**i, 100 * 2**i) for i in range(3)]
    assert layer_cost._growth(numbers) == pytest.approx(1.5)
    cheap = lengths((10, 5), (10, 6), (10, 20))
    verdicts = [claim.holds for claim in layer_cost._claims(cheap, numbers)]
    assert verdicts == [True, True, True, True]
    dear = [layer_cost._Number(4**i, 10 * 3**i, 100 * 2**i) for i in range(3)]
    slow = lengths((10, 5), (10, 6), (10, 6), (30, 7))
    verdicts = [claim.holds for claim in layer_cost._claims(slow, dear)]
    assert verdicts == [False, False, False, False]

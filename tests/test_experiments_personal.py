"""The experiment on users' own memories: its life, its questions, and its verdicts."""

import re

import numpy as np
import pytest
import torch
from helpers import outcome_of, seeded

from pentti.errors import ArgumentError
from pentti.experiments import personal
from pentti.experiments.finding import Order
from pentti.experiments.needle_reading import NAMES, Plan, Reader, draw_keys, hide
from pentti.experiments.personal_life import Life, ask, grow, independent, others
from pentti.nn import MemoryState

TINY = Plan(width=16, n_locations=256)
LIFE = Life(n_sessions=2, n_facts=3, n_bytes=300, n_talk=500)


@pytest.fixture(scope="module")
def model():
    return Reader("sequence memory, delta", TINY, 3).eval()


@pytest.fixture
def grown(model, tmp_path):
    (state, keys), shares = outcome_of(grow(model, LIFE, [4, 5, 6], tmp_path, seeded()))
    return state, keys, shares


def test_a_stretch_of_text_tells_all_keys_in_order():
    keys = draw_keys(5, seeded())
    assert set(keys) <= set(NAMES)
    text = hide(keys, 700, seeded()).decode("latin-1")
    assert len(text) == 700
    assert re.findall(r"\nThe pass key of (\w+) is (\d{5})\.\n", text) == list(keys.items())
    assert "pass key" not in hide({}, 700, seeded()).decode("latin-1")
    with pytest.raises(ArgumentError, match="length"):
        hide(keys, 100, seeded())


def test_states_go_through_files_and_have_heard_everything(grown, tmp_path):
    state, keys, shares = grown
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        f"user{user}.safetensors" for user in (4, 5, 6)
    ]
    assert state.n_tokens.tolist() == [2 * 300 + 500] * 3
    assert [len(own) for own in keys] == [6, 6, 6]
    assert MemoryState.load(tmp_path / "user5.safetensors").n_tokens.tolist() == [600]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_asking_leaves_the_state_and_answers_each_user_for_himself(model, grown):
    state, keys, _ = grown
    before = state.clone()
    answers = ask(model, state, keys)
    assert answers.right.shape == (3, 6, 5)
    assert answers.logits.shape == (3, 6, 5, 256)
    assert answers.evidence.shape == (3, 6)
    assert torch.equal(state.contents, before.contents)
    alone = ask(model, state.select([1]), keys[1:2])
    torch.testing.assert_close(alone.logits[0], answers.logits[1], rtol=0, atol=1e-4)
    other = ask(model, state.select([0, 0, 0]), keys)
    assert not torch.allclose(other.logits[1], answers.logits[1], atol=1e-4)


def test_independence_is_noticed_and_so_is_its_lack(model, grown, monkeypatch):
    state, keys, _ = grown
    assert independent(model, state, keys)
    leaky = MemoryState.clone

    def mixed(self):
        copy = leaky(self)
        copy.contents = copy.contents + 1e-3 * copy.contents.sum(0)
        return copy

    monkeypatch.setattr(MemoryState, "clone", mixed)
    assert not independent(model, state, keys)


def test_others_are_names_that_the_user_never_told_of():
    keys = [{"a": "1", "b": "2"}, {"b": "3", "c": "4"}, {"d": "5", "a": "6"}]
    assert others(keys, 2) == [{"d": "5", "c": "4"}, {"a": "6", "d": "5"}, {"b": "2", "c": "4"}]


def outcome(**changes):
    rng = np.random.default_rng(0)
    plan = personal._PLANS["quick"]
    n, each = plan.n_users, plan.life.n_sessions * plan.life.n_facts
    good = {
        "right": np.ones((n, each), dtype=bool),
        "evidence": np.full((n, each), 2.0),
        "never": np.full((n, 3), 0.5),
        "forgotten": rng.random((2, each, 5)) < 0.1,
        "leaked": rng.random((n, 3, 5)) < 0.1,
        "bitwise": True,
        "file_bytes": 1000.0,
    }
    return personal._Outcome(**(good | changes)), plan


def test_verdicts_follow_the_numbers():
    assert all(claim.holds for claim in personal._claims(*outcome()))
    n, each = outcome()[0].right.shape
    faded = np.ones((n, each), dtype=bool)
    faded[:, 0] = False
    leaked = np.zeros((n, 3, 5), dtype=bool)
    leaked[0, 0] = True
    for place, changes in enumerate(
        [
            {"right": np.zeros((n, each), dtype=bool)},
            {"right": faded},
            {"leaked": leaked},
            {"bitwise": False},
            {"forgotten": np.ones((2, each, 5), dtype=bool)},
            {"never": np.full((n, 3), 2.5)},
        ]
    ):
        holds = [claim.holds for claim in personal._claims(*outcome(**changes))]
        assert not holds[place], changes
    assert "0 of 18 keys" in personal._conclusion(*outcome())


def test_a_small_run_gives_what_the_report_needs(monkeypatch):
    plan = personal._Plan(4, 2, LIFE, Plan(width=16, n_locations=256, n_steps=2, batch=2))
    monkeypatch.setitem(personal._PLANS, "quick", plan)
    finding, steps = outcome_of(personal.EXPERIMENT.run(Order()))
    assert len(finding.claims) == 6
    assert len(finding.tables[0].rows) == LIFE.n_sessions + 1
    assert finding.figures[0].svg.startswith("<svg")
    shares = [step.share for step in steps]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)

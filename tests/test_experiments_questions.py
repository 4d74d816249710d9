"""The experiment on questions: its texts, its parts, and small runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import outcome_of, seeded

from pentti.errors import ArgumentError
from pentti.experiments import question_learning, questions
from pentti.experiments.finding import Order
from pentti.experiments.question_learning import Stage
from pentti.experiments.question_models import MEMORY, MIXERS
from pentti.experiments.question_texts import Language, draw_facts, others, write

LANGUAGE = Language(n_names=11, n_relations=3, n_synonyms=2, n_values=7, n_fillers=5)


@pytest.fixture(autouse=True)
def one_thread():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def texts(n=13, n_facts=5, length=131, **settings):
    stream = seeded()
    facts = draw_facts(LANGUAGE, n, n_facts, stream)
    return facts, *write(LANGUAGE, facts, facts, length, stream, **settings)


def told_in(text, name, relation, value):
    """Sentences of a text that hold a name, any word for a relation, and a value."""
    sentences = text.replace("?", ".").split(".")
    return [
        sentence
        for sentence in sentences
        if {f"name{name}", f"value{value}"} <= set(sentence.split())
        and f"relation{relation}" in sentence
    ]


def test_every_fact_is_told_once_and_asked_in_other_words():
    facts, ids, at = texts()
    assert ids.shape == (13, 131)
    assert at.shape == (13, 5)
    assert (ids.gather(1, at) == LANGUAGE.question_mark).all()
    assert int((ids == LANGUAGE.question_mark).sum()) == at.numel()
    for b in range(13):
        text = LANGUAGE.spell(ids[b])
        asked = [s.split(".")[-1] for s in text.split("?")[:-1]]
        for f in range(5):
            name, relation, value, synonym = (int(part[b, f]) for part in facts)
            told = told_in(text, name, relation, value)
            assert len(told) == 1
            assert f"relation{relation}{'ab'[synonym]}" in told[0]
            assert f"name{name}" in asked[f].split()
            assert f"relation{relation}{'ba'[synonym]}" in asked[f].split()
            assert "value" not in asked[f]


def test_a_question_may_have_the_same_word_where_that_is_wanted():
    facts, ids, at = texts(n=50, any_synonym=True)
    word = facts.relations * 2 + facts.synonyms + LANGUAGE.firsts["R"]
    sentence = torch.stack([ids.gather(1, at - back) for back in range(1, 7)])
    share = (sentence == word).any(0).double().mean().item()
    assert 0.3 < share < 0.7


def test_no_pair_is_told_twice_and_names_share_the_facts():
    facts = draw_facts(LANGUAGE, 31, 6, seeded())
    pairs = facts.names * 3 + facts.relations
    assert all(len(set(row)) == 6 for row in pairs.tolist())
    assert max(len(set(row)) for row in facts.names.tolist()) <= 3
    apart = draw_facts(LANGUAGE, 31, 6, seeded(), per_name=1)
    assert max(len(set(row)) for row in apart.names.tolist()) > 3


def test_others_were_never_told():
    facts = draw_facts(LANGUAGE, 31, 3, seeded())
    near, far = others(LANGUAGE, facts, seeded(2))
    for b in range(31):
        told = set(zip(facts.names[b].tolist(), facts.relations[b].tolist(), strict=True))
        for kind in (near, far):
            asked = zip(kind.names[b].tolist(), kind.relations[b].tolist(), strict=True)
            assert told.isdisjoint(asked)
        assert set(near.names[b].tolist()) <= set(facts.names[b].tolist())
        assert set(far.names[b].tolist()).isdisjoint(facts.names[b].tolist())


def test_talk_has_words_of_all_kinds_and_the_seed_fixes_a_text():
    none = draw_facts(LANGUAGE, 2, 0, seeded())
    ids, at = write(LANGUAGE, none, none, 997, seeded(3))
    again, _ = write(LANGUAGE, none, none, 997, seeded(3))
    assert torch.equal(ids, again)
    assert at.shape == (2, 0)
    text = LANGUAGE.spell(ids[0])
    assert all(kind in text for kind in ("name", "relation", "value", "word"))
    assert "?" not in text


def test_what_does_not_fit_is_refused():
    with pytest.raises(ArgumentError, match=r"write: `length` must be .*, got 20"):
        texts(length=20)
    with pytest.raises(ArgumentError, match="draw_facts: `n_facts` must be in"):
        draw_facts(LANGUAGE, 1, 12, seeded())
    with pytest.raises(ArgumentError, match="draw_facts: `per_name` must be in"):
        draw_facts(LANGUAGE, 1, 3, seeded(), per_name=4)


@pytest.mark.parametrize("mixer", MIXERS)
def test_training_lowers_the_loss_to_a_guess_of_known_values(mixer):
    few = replace(LANGUAGE, n_values=2)
    learned, shares = outcome_of(
        question_learning.learn(mixer, few, [Stage(30, 41, 2, 7)], 1, lr=1e-2)
    )
    assert shares[-1] == 1.0
    assert learned.steps == [25, 30]
    assert learned.n_steps == 30
    assert learned.seconds > 0
    assert learned.accuracy[-1] > 0.3  # never another word than the two values
    share = question_learning.accuracy(learned.model, few, 41, 2, 5, 3)
    assert 0 <= share <= 1
    told, near, far = question_learning.signals(learned.model, few, 67, 2, 3, 3)
    assert len(told.confidence) == len(near.confidence) == len(far.confidence) == 6
    assert (told.evidence is not None) is (mixer == MEMORY)


def test_separation():
    assert question_learning.separation(np.array([3.0, 2.0]), np.array([1.0])) == 1.0
    assert question_learning.separation(np.ones(3), np.ones(2)) == 0.5


def test_the_rate_rises_and_falls():
    rates = [question_learning._rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 20)
    assert rates[30] == 1.0
    assert rates[-1] < 0.05
    assert rates[60:] == sorted(rates[60:], reverse=True)


def test_the_best_start_goes_on():
    stages = [Stage(26, 41, 2, 3), Stage(1, 41, 2, 3)]
    best, shares = outcome_of(question_learning.learn(MEMORY, LANGUAGE, stages, 1, n_starts=3))
    alone = [
        outcome_of(question_learning.learn(MEMORY, LANGUAGE, stages, seed))[0] for seed in (1, 2, 3)
    ]
    reached = [one.accuracy[1] for one in alone]
    assert len(set(reached)) > 1
    assert best.accuracy[:2] == alone[reached.index(max(reached))].accuracy[:2]
    assert best.steps == [25, 26, 27]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_the_section_is_whole_at_a_small_size(monkeypatch):
    stages = (Stage(2, 40, 2, 3), Stage(2, 60, 2, 2))
    small = questions._Plan(LANGUAGE, 2, stages, (60, 131), 2, 2, 2)
    monkeypatch.setitem(questions._PLANS, "quick", small)
    finding, steps = outcome_of(questions.EXPERIMENT.run(Order()))
    shares = [step.share for step in steps]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert len(finding.claims) == 6
    for table in finding.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)


def made_up(right, evidence):
    learned = question_learning.Learned(None, [10], [right], 10, 1.0)
    sure = np.array([0.6, 0.5])
    shown = [
        question_learning.Signal(None if level is None else np.full(2, level), sure)
        for level in evidence
    ]
    return questions._Outcome(learned, [right, right], shown)


def test_verdicts_on_made_up_numbers():
    plan = questions._Plan(LANGUAGE, 1, (Stage(1, 64, 2, 2),), (64, 512), 2, 2, 2)
    outcomes = {name: made_up(0.02, (None, None, None)) for name in MIXERS}
    outcomes[MEMORY] = made_up(0.97, (3.0, 2.0, 1.0))
    assert [claim.holds for claim in questions._claims(outcomes, plan)] == [True] * 6
    outcomes[MEMORY] = made_up(0.02, (1.0, 1.0, 1.0))
    outcomes["window only"] = made_up(0.5, (None, None, None))
    verdicts = [claim.holds for claim in questions._claims(outcomes, plan)]
    assert verdicts == [False] * 6
    short = replace(plan, is_enough=False)
    assert [claim.holds for claim in questions._claims(outcomes, short)] == [False]
    assert "So few steps" in questions._conclusion(outcomes, short)
    assert "So few steps" not in questions._conclusion(outcomes, plan)

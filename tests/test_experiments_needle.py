"""The needle experiment: its texts, its models, and its verdicts on made-up numbers."""

import re
from dataclasses import replace

import pytest
import torch
from helpers import outcome_of, seeded

from pentti.experiments import needle, needle_reading
from pentti.experiments.finding import Order
from pentti.experiments.needle_reading import FINDERS, Plan, Reader, find, hidden_keys, train
from pentti.nn import crowding

TINY = Plan(
    width=16, n_locations=81, n_steps=3, batch=2, longest=1200, lengths=(700, 900), n_test_bytes=1,
    n_keys=3,
)  # fmt: skip


def test_every_key_is_hidden_once_and_asked_once():
    texts = hidden_keys(5, 1000, 4, seeded(1))
    assert texts.ids.shape == (5, 1000)
    assert texts.digits.shape == (20, 5)
    for row, ids in enumerate(texts.ids):
        text = bytes(ids.tolist()).decode("latin-1")
        told = re.findall(r"\nThe pass key of (\w+) is (\d{5})\.\n", text)
        assert len(told) == len(dict(told)) == 4
        asked = re.findall(
            r"\nWhich is the pass key of (\w+)\? The pass key of \1 is (\d{5})", text
        )
        assert sorted(asked) == sorted(told)
        assert text.endswith(asked[-1][1])
        answers = texts.digits[texts.rows[:, 0] == row]
        assert [bytes(answer.tolist()).decode() for answer in answers] == [key for _, key in asked]


def test_needles_lie_anywhere_and_texts_follow_the_generator():
    first, again, other = (hidden_keys(30, 2000, 2, seeded(seed)).ids for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    places = [bytes(ids.tolist()).index(b"The pass key of") / 1700 for ids in first]
    assert min(places) < 0.1
    assert max(places) > 0.6


def test_training_never_sees_the_text_of_the_tests():
    seen = needle_reading._source(False)
    stretch = bytes(hidden_keys(1, 2000, 0, seeded(3)).ids[0].tolist())
    assert stretch in needle_reading._source(True)
    assert not any(stretch[i : i + 200] in seen for i in range(0, 1800, 300))


@pytest.mark.parametrize("name", FINDERS)
def test_each_model_reads_and_learns(name):
    trained, shares = outcome_of(train(name, TINY))
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])
    before = Reader(name, TINY, 0).state_dict()
    after = trained.model.state_dict()
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    assert any(key.startswith("blocks.1.mixer") for key in moved)
    (share, n, seconds), _ = outcome_of(find(trained.model, 700, TINY))
    assert (0 <= share <= 1, n) == (True, 12)
    assert seconds > 0


def test_the_section_judges_what_was_found(monkeypatch):
    monkeypatch.setitem(needle._PLANS, "quick", TINY)
    finding, steps = outcome_of(needle.EXPERIMENT.run(Order()))
    shares = [step.share for step in steps]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert not finding.claims[0].holds  # three steps teach nothing
    assert len(finding.tables[0].rows) == len(FINDERS)
    assert "<svg" in finding.figures[0].svg
    full = Plan()
    trained = outcome_of(train("window", TINY))[0]

    def outcomes(memories, others=0.0):
        return {
            name: needle._Outcome(
                trained, {n: (memories.get(name, others), 8, 1.0) for n in full.lengths}
            )
            for name in FINDERS
        }

    adds, corrects, alone = needle._MEMORIES
    good = {adds: 1.0, corrects: 1.0, alone: 0.9}
    assert [claim.holds for claim in needle._claims(outcomes(good), full)] == [True] * 6
    weak = needle._claims(outcomes({adds: 0.9, corrects: 0.8, alone: 0.8}, others=0.2), full)
    assert [claim.holds for claim in weak] == [False] * 6


def test_crowding_is_part_of_what_a_memory_learns_from():
    crowded = []
    for spread in (0.0, 100.0):
        plan = replace(TINY, n_steps=15, spread=spread, rate=1e-2)
        model = outcome_of(train("sequence memory, delta", plan))[0].model
        model(hidden_keys(2, 900, 3, seeded(5)))
        crowded.append(float(crowding(model.evidence.detach())))
    assert crowded[1] < 0.95 * crowded[0]

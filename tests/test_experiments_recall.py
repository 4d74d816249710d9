"""The recall experiment: its texts, its models, and its verdicts on made-up numbers."""

import math

import pytest
import torch
from helpers import outcome_of, seeded

from pentti.experiments import recall, recall_learning
from pentti.experiments.finding import Order
from pentti.experiments.recall_learning import ALL_MIXERS, Curve, Setting, ask
from pentti.nn import SequenceMemory

SMALL = Setting(32, 4, 64)


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("setting", [Setting(64, 4), Setting(34, 7, 37), Setting(20, 5, 16)])
def test_every_key_is_asked_once_and_its_value_is_the_answer(setting, random):
    tokens, positions, answers = ask(setting, 63, seeded(1), random=random)
    start = 2 * setting.pairs
    assert tokens.shape == (63, setting.length)
    assert 0 <= tokens.min() <= tokens.max() < setting.vocabulary
    keys, values = tokens[:, 0:start:2], tokens[:, 1:start:2]
    assert 1 <= keys.min() <= keys.max() < setting.vocabulary // 2 <= values.min()
    for numbers in (keys, values, positions):
        ordered = numbers.sort(1).values
        assert (ordered[:, 1:] > ordered[:, :-1]).all()  # all different
    assert torch.equal(tokens.gather(1, positions), keys)
    assert torch.equal(answers, values)
    assert (positions % 2 == 0).all()
    assert start <= positions.min() <= positions.max() < setting.length
    if not random:
        assert ((tokens[:, start:] != 0).sum(1) == setting.pairs).all()
        assert tokens[:, start + 1 :: 2].max() == 0


def test_texts_differ_by_the_generator_alone():
    first, again, other = (ask(SMALL, 5, seeded(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.tokens, other.tokens)


def test_the_first_question_follows_the_power_law():
    n = 20_000
    positions = ask(SMALL, n, seeded(3)).positions
    slots = torch.arange(1, 13, dtype=torch.float64)
    expected = slots**-0.99 / (slots**-0.99).sum()
    found = ((positions[:, :1] - 8) // 2 == torch.arange(12)).double().mean(0)
    error = (expected * (1 - expected) / n).sqrt()
    assert ((found - expected).abs() < 5 * error).all()
    # The second is drawn from what the first left.
    left = expected / (1 - expected[:, None]) * expected[:, None] * (1 - torch.eye(12))
    second = ((positions[:, 1:2] - 8) // 2 == torch.arange(12)).double().mean(0)
    error = (left.sum(0) * (1 - left.sum(0)) / n).sqrt()
    assert ((second - left.sum(0)).abs() < 5 * error).all()


def test_keys_are_drawn_evenly_in_every_order():
    n, n_keys = 30_000, 5
    chosen = recall_learning._different(n, n_keys, 3, seeded(4))
    codes = chosen @ torch.tensor([25, 5, 1])
    counts = torch.bincount(codes, minlength=125)
    assert (counts > 0).sum() == 60
    expected = n / 60
    assert (counts[counts > 0] - expected).abs().max() < 5 * expected**0.5
    everything = recall_learning._different(7, 4, 4, seeded(5))
    assert torch.equal(everything.sort(1).values, torch.arange(4).expand(7, 4))


def test_what_a_window_reaches():
    setting = Setting(32, 2, 64)  # a window of 8, and two more by the convolution
    positions = torch.tensor([[10, 12], [12, 12]])
    questions = recall_learning.Questions(torch.zeros(2, 32), positions, torch.zeros(2, 2))
    assert recall_learning.reachable(setting, questions) == 0.75  # 9, 9, 11 and 9 tokens back


@pytest.mark.parametrize("name", ALL_MIXERS)
def test_a_changed_future_leaves_the_answers_before_as_they_were(name):
    model = recall_learning.reader(name, SMALL, 8, 6)
    tokens = torch.randint(64, (3, 32), generator=seeded(7))
    changed = torch.where(torch.arange(32) < 17, tokens, 63 - tokens)
    asked = torch.arange(17).expand(3, 17)
    with torch.no_grad():
        assert torch.equal(model(tokens, asked), model(changed, asked))
        later = torch.full((3, 1), 18)
        assert not torch.equal(model(tokens, later), model(changed, later))


def test_the_convolution_sees_three_tokens():
    layer = recall_learning.Convolution(5)
    x = torch.randn((2, 11, 5), generator=seeded(8), requires_grad=True)
    layer(x)[:, 7].sum().backward()
    seen = (x.grad != 0).any(-1).any(0).nonzero()[:, 0]
    assert seen.tolist() == [5, 6, 7]


def test_addresses_as_drawn_do_not_learn():
    model = recall_learning.reader(recall_learning.AS_DRAWN, SMALL, 8, 1)
    memory = model.mixers[0]
    before = {name: p.clone() for name, p in memory.named_parameters()}
    questions = ask(SMALL, 5, seeded(1))
    work = recall_learning.learn(
        model, SMALL, questions, lr=0.01, batch=7, n_steps=3, look=1, seed=2
    )
    curve, _ = outcome_of(work)
    moved = {name for name, p in memory.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"value.weight", "out.weight", "floor"}
    assert curve.n_parameters == 2 * 8 * 8 + 1 + 2 * 8


def test_the_memory_learns_and_stops_when_it_is_done():
    questions = ask(SMALL, 100, seeded(9))
    model = recall_learning.reader("sequence memory", SMALL, 32, 3)
    state = torch.get_rng_state()
    work = recall_learning.learn(
        model, SMALL, questions, lr=0.01, batch=63, n_steps=80, look=10, seed=4
    )
    curve, yielded = outcome_of(work)
    assert curve.recalls[0] < 0.2
    assert curve.first(0.99) <= 40
    assert curve.steps[-1] < 80
    assert yielded == [step / 80 for step in curve.steps[1:-1]]
    assert recall_learning.recall(model, questions) == curve.recalls[-1]
    assert torch.equal(torch.get_rng_state(), state)


def test_the_state_of_a_text_is_counted():
    tokens = ask(Setting(32, 4, 64), 3, seeded(1)).tokens
    sizes = {
        name: recall_learning.state_bytes(recall_learning.reader(name, SMALL, 8, 1), tokens)
        for name in ALL_MIXERS
    }
    taps, token = 2 * 8 * 4, 2 * 8 * 4 + 8  # a key, a value, and a position
    assert sizes["attention, two layers"] == 2 * 32 * token
    assert sizes["convolution + attention"] == taps + 32 * token
    assert sizes["convolution + sliding window"] == taps + 7 * token
    assert sizes["convolution + linear attention"] == taps + 8 * 9 * 4
    assert sizes[recall_learning.AT_ONE] < sizes["sequence memory"] / 4


def curve(*recalls):
    return Curve([10 * i for i in range(len(recalls))], list(recalls), 0.1, 100)


def rows_of(**curves):
    case = recall._Case(SMALL, 8, 7, 30)
    usual = {name: curve(0.0, 0.5, 0.6) for name in ALL_MIXERS}
    quick = (recall._MEMORY, recall.AS_DRAWN, recall.AT_ONE)
    usual |= {name: curve(0.0, 0.995) for name in quick}
    usual[recall._SOFTMAX] = curve(0.0, 0.5, 0.99)
    usual |= curves
    return [recall._Row(case, name, one, 0.6, 2048) for name, one in usual.items()]


def test_verdicts_follow_the_steps():
    assert [claim.holds for claim in recall._claims(rows_of())] == [True] * 6
    never = {recall._MEMORY: curve(0.0, 0.5, 0.98)}
    verdicts = [claim.holds for claim in recall._claims(rows_of(**never))]
    assert verdicts == [False, False, True, True, True, True]
    slow = {recall._MEMORY: curve(0.0, 0.5, 0.99), recall._WINDOW: curve(0.0, 0.63)}
    slow |= {recall._LINEAR: curve(0.0, 0.5, 0.995)}
    verdicts = [claim.holds for claim in recall._claims(rows_of(**slow))]
    assert verdicts == [True, False, True, True, False, False]
    late = dict.fromkeys((recall.AS_DRAWN, recall.AT_ONE), curve(0.0, 0.5, 0.99))
    verdicts = [claim.holds for claim in recall._claims(rows_of(**late))]
    assert verdicts == [True, True, False, False, True, True]


def test_steps_that_were_not_enough_are_said():
    row = rows_of()[0]
    assert recall._steps(row) == "10"
    assert curve(0.0, 0.5).first(0.99) is None
    rows = rows_of(**{recall._ATTENTION: curve(0.0, 0.2, 0.3)})
    last = next(row for row in rows if row.name == recall._ATTENTION)
    assert last.needed == math.inf
    assert recall._steps(last) == "not in 20"
    assert "attention, two layers: not in 20 steps, 30.0 %" in recall._conclusion(rows, "quick")


def test_the_recall_section_is_whole_at_a_small_size(monkeypatch):
    few = recall._Case(SMALL, 8, 7, 4, recall._FEW)
    monkeypatch.setitem(recall._PLANS, "quick", [recall._Case(SMALL, 8, 7, 4), few])
    monkeypatch.setattr(recall, "_N_ASKED", 40)
    finding, steps = outcome_of(recall.EXPERIMENT.run(Order()))
    shares = [step.share for step in steps]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert len(finding.tables[0].rows) == len(ALL_MIXERS) + len(recall._FEW)
    assert all(len(row) == len(finding.tables[0].columns) for row in finding.tables[0].rows)
    assert "8,192 words" in finding.conclusion
    assert len(finding.figures) == 1
    assert recall._PLANS["full"][3].setting == Setting(512, 64, 8192)


def test_the_memory_is_the_one_of_the_library():
    (memory,) = ALL_MIXERS["sequence memory"](SMALL, 64)
    assert isinstance(memory, SequenceMemory)
    assert (memory.top_k, memory.n_locations, memory.shift) == (8, 65_536, True)

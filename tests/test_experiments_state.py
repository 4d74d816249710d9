"""The experiment on recall by bytes of state: its mixers, its bytes, its verdicts."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import outcome_of, seeded

from pentti.experiments import recall_state
from pentti.experiments.finding import Order
from pentti.experiments.recall_learning import Setting, ask, recall, state_bytes

SMALL = Setting(34, 5, 64, gap=14)
MEMORY, DELTA = recall_state._MEMORIES
CACHE, WINDOW, LINEAR = recall_state._CACHE, recall_state._WINDOW, recall_state._LINEAR
MIXERS = {
    "memory": recall_state._Mixer(MEMORY, 8, n_locations=256, top_k=2),
    "bounded": recall_state._Mixer(MEMORY, 8, n_locations=256, top_k=2, most=256),
    "delta": recall_state._Mixer(DELTA, 8, 2, n_locations=256, top_k=1),
    "linear": recall_state._Mixer(LINEAR, 8),
    "cache": recall_state._Mixer(CACHE, 8),
    "window": recall_state._Mixer(WINDOW, 8, most=7),
}


def test_the_gap_holds_other_words_and_moves_the_questions():
    tokens, positions, answers = ask(SMALL, 63, seeded(1))
    told, asked = slice(0, 10), slice(24, 34)
    keys = tokens[:, told][:, ::2]
    gap = tokens[:, 10:24]
    assert positions.min() >= 24
    assert torch.equal(tokens.gather(1, positions), keys)
    assert torch.equal(answers, tokens[:, told][:, 1::2])
    assert not (gap[:, :, None] == keys[:, None]).any()
    assert len(gap.unique()) == SMALL.vocabulary  # each word is some text's filling
    assert (tokens[:, asked] != 0).sum() == positions.numel()
    same = ask(replace(SMALL, gap=0, length=20), 63, seeded(1))
    assert torch.equal(same.tokens[:, told], tokens[:, told])
    assert torch.equal(same.positions + 14, positions)


@pytest.mark.parametrize("name", MIXERS)
def test_what_comes_later_changes_no_answer_and_what_came_before_does(name):
    model = recall_state._reader(MIXERS[name], 64)
    tokens = torch.randint(1, 64, (3, 32), generator=seeded(7))
    changed = torch.where(torch.arange(32) < 17, tokens, 64 - tokens)
    asked = torch.arange(17).expand(3, 17)
    with torch.no_grad():
        assert torch.equal(model(tokens, asked), model(changed, asked))
        later = torch.full((3, 1), 18)
        assert not torch.equal(model(tokens, later), model(changed, later))


@pytest.mark.parametrize("kind", [CACHE, WINDOW])
def test_attention_begins_by_reading_what_followed_an_equal_token(kind):
    mixer = replace(MIXERS["window"], kind=kind, width=64, most=30).make()
    x = torch.nn.functional.rms_norm(torch.randn((1, 32, 64), generator=seeded(2)), (64,))
    x[:, 30] = x[:, 12]
    with torch.no_grad():
        given = mixer(x)[0, 30]
        wanted = mixer.out(mixer.value(x[0, 13]))
    assert torch.nn.functional.cosine_similarity(given, wanted, dim=0) > 0.95


def n_touched(model, tokens):
    """Locations, of all heads, that all tokens of the first text but the last one activate."""
    memory = getattr(model.mixers[0], "memory", model.mixers[0])
    with torch.no_grad():
        address = memory.address(model.norms[0](model.words(tokens[:1, :-1])))
        locations = memory.decoder.nearest(address)[0]
    return sum(len(head.unique()) for head in locations.unbind(2))


def test_bytes_are_counted_by_hand():
    tokens = torch.arange(1, 33).expand(3, 32)
    found = {
        name: state_bytes(recall_state._reader(mixer, 64), tokens) + mixer.last_bytes
        for name, mixer in MIXERS.items()
    }
    token = 2 * 8 * 4 + 8  # a key, a value, and a position
    assert found["cache"] == 32 * token + 8 * 4
    assert found["window"] == 6 * token + 8 * 4  # the next token sees itself too
    assert found["linear"] == 8 * 9 * 4 + 8 * 4
    for name, width in (("memory", 8), ("delta", 4), ("bounded", 8)):
        n = n_touched(recall_state._reader(MIXERS[name], 64), tokens)
        # contents, evidence, where it is and when; 2 places and weights of the newest token
        assert found[name] == n * (4 * width + 4 + 4 + 8) + 2 * (8 + 4)
    assert found["bounded"] == found["memory"]


def test_a_word_that_comes_again_takes_no_more_bytes():
    model = recall_state._reader(MIXERS["memory"], 64)
    once = torch.arange(1, 12).expand(1, 11)
    twice = torch.cat([once, once, once[:, :1]], 1)
    assert state_bytes(model, twice) == state_bytes(model, torch.cat([once, once[:, :1]], 1))


def test_a_bounded_memory_forgets_on_the_way_and_only_what_is_too_much():
    wide = recall_state._reader(MIXERS["bounded"], 64)
    tight = recall_state._reader(replace(MIXERS["bounded"], most=16), 64)
    free = recall_state._reader(MIXERS["memory"], 64)
    tokens = torch.randint(64, (2, 100), generator=seeded(3))
    asked = torch.arange(100).expand(2, 100)
    whole = free(tokens, asked)
    assert torch.equal(tight(tokens, asked), whole)  # learning is not bounded
    with torch.no_grad():
        torch.testing.assert_close(wide(tokens, asked), whole)
        cut = tight(tokens, asked)
    torch.testing.assert_close(cut[:, :32], whole[:, :32])
    assert not torch.allclose(cut[:, 40:], whole[:, 40:])
    row = 8 * 4 + 4 + 4 + 8
    assert 0 < state_bytes(tight, tokens) <= 16 * row


def outcome(kind, recalls, n_bytes, **sizes):
    mixer = recall_state._Mixer(kind, 8, **sizes)
    lengths = (34, 200)
    return recall_state._Outcome(
        mixer, 0.01, 5, dict(zip(lengths, recalls, strict=True)),
        dict(zip(lengths, n_bytes, strict=True)),
    )  # fmt: skip


PLAN = recall_state._Plan(SMALL, (34, 200), 10, 3, 2, 1, ())


def made_up(**changes):
    usual = {
        "one": outcome(MEMORY, (0.95, 0.92), (100, 200), n_locations=256, top_k=1),
        "many": outcome(MEMORY, (1.0, 1.0), (400, 800), n_locations=256, top_k=4),
        "delta": outcome(DELTA, (1.0, 0.1), (90, 180), n_locations=256, top_k=1),
        "linear": outcome(LINEAR, (0.5, 0.2), (10, 10)),
        "cache": outcome(CACHE, (1.0, 1.0), (110, 700)),
        "window": outcome(WINDOW, (0.8, 0.02), (60, 60), most=20),
    }
    return list((usual | changes).values())


def verdicts(**changes):
    return [claim.holds for claim in recall_state._claims(made_up(**changes), PLAN)]


def test_verdicts_follow_the_numbers():
    assert verdicts() == [True] * 7
    small = outcome(CACHE, (0.9, 0.9), (80, 399))
    assert verdicts(cache=small) == [False, True, False, True, True, True, True]
    assert verdicts(cache=outcome(CACHE, (0.89, 0.89), (80, 80)))[:3] == [True, True, True]
    few = outcome(MEMORY, (1.0, 1.0), (100, 800), n_locations=256, top_k=4)
    assert verdicts(many=few) == [True, False, True, False, True, True, True]
    assert not verdicts(linear=outcome(LINEAR, (0.5, 0.9), (10, 10)))[4]
    weak = outcome(MEMORY, (0.85, 0.5), (100, 200), n_locations=256, top_k=1)
    assert not verdicts(one=weak)[5]
    text = "more keys share theirs than chance"
    assert text in recall_state._conclusion(made_up(one=weak), PLAN, "full")
    assert text not in recall_state._conclusion(made_up(), PLAN, "full")
    assert not verdicts(window=outcome(WINDOW, (0.8, 0.03), (60, 60), most=20))[6]


def test_a_goal_that_nobody_reaches_is_said():
    low = {
        name: outcome(MEMORY, (0.2, 0.1), (100, 200), n_locations=256, top_k=k)
        for name, k in (("one", 1), ("many", 4))
    } | {"delta": outcome(DELTA, (0.2, 0.1), (90, 180), n_locations=256, top_k=1)}
    claims = recall_state._claims(made_up(**low), PLAN)
    assert [claim.holds for claim in claims[:3]] == [False, False, False]
    assert claims[0].measured.startswith("none that was tried against 0 KiB (8 wide)")
    assert recall_state._needed(None, 34) == math.inf


def test_the_cheapest_that_is_good_enough():
    found = recall_state._cheapest(made_up(), (MEMORY, DELTA), 200, 0.9)
    assert found.n_bytes[200] == 200
    assert recall_state._cheapest(made_up(), (LINEAR,), 200, 0.9) is None


def test_keys_that_are_alone_are_counted_by_chance():
    n, m, words = 20_000, 64, 2 * SMALL.pairs + SMALL.gap
    places = torch.randint(m, (n, words + 1), generator=seeded(4))
    alone = (places[:, 1:] != places[:, :1]).all(1).double().mean().item()
    expected = recall_state._alone(m, SMALL)
    assert abs(alone - expected) < 5 * (expected * (1 - expected) / n) ** 0.5


def test_the_better_rate_is_kept(monkeypatch):
    plan = replace(PLAN, n_asked=50)
    monkeypatch.setattr(recall_state, "_RATES", (0.0, 0.03))
    mixer = recall_state._Mixer(MEMORY, 16, n_locations=1024, top_k=4)
    kept, yielded = outcome_of(recall_state._outcome(mixer, replace(plan, n_steps=10, batch=32)))
    assert kept.rate == 0.03
    assert kept.n_steps <= 10
    assert yielded == sorted(yielded)
    assert kept.recalls[34] > 0.5
    assert kept.n_bytes[200] > kept.n_bytes[34]


def test_a_model_that_is_right_recalls_everything():
    questions = ask(SMALL, 7, seeded(5))

    class Right(torch.nn.Module):
        def forward(self, tokens, positions):
            told = tokens[:, 1:10:2]
            same = tokens.gather(1, positions)[:, :, None] == tokens[:, None, 0:10:2]
            values = (same * told[:, None]).sum(-1)
            return torch.nn.functional.one_hot(values, 64).float()

    assert recall(Right(), questions) == 1.0


def test_the_state_section_is_whole_at_a_small_size(monkeypatch):
    single = recall_state._Mixer(MEMORY, 8, n_locations=64, top_k=1)
    mixers = (*MIXERS.values(), single)
    plan = replace(PLAN, n_asked=20, mixers=mixers)
    monkeypatch.setitem(recall_state._PLANS, "quick", plan)
    finding, steps = outcome_of(recall_state.EXPERIMENT.run(Order()))
    shares = [step.share for step in steps]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    (table,) = finding.tables
    assert [row[1] for row in table.rows] == [mixer.label for mixer in mixers]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert len(finding.figures) == 1
    assert "8,192 words" in finding.conclusion
    full = recall_state._PLANS["full"]
    assert full.at(8192) == Setting(8192, 64, 8192, gap=8192 - 256)
    assert full.at(full.lengths[0]) == full.setting
    for name in ("quick", "full"):
        assert {mixer.kind for mixer in recall_state._PLANS[name].mixers} == set(
            recall_state._STYLES
        )

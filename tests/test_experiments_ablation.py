"""The ablation: each change does what its name says, and verdicts follow the numbers."""

from types import SimpleNamespace

import pytest
import torch
from helpers import outcome_of

from pentti.experiments import ablation, language_runs
from pentti.experiments.ablation import PLANS, VARIANTS
from pentti.experiments.finding import Order
from pentti.experiments.language_models import Plan, settings
from pentti.nn import PenttiConfig, PenttiTransformer, SequenceMemory

TINY = Plan(
    dim=16, n_layers=3, n_heads=2, window=4, block=4, n_locations=36, context=32, batch_tokens=64,
    n_steps=4, rates=(1e-2,), tune_steps=2, n_seeds=1, validate_every=2, validation_tokens=64,
    n_documents=2, n_timings=1,
)  # fmt: skip


def made(name):
    torch.manual_seed(3)
    variant = VARIANTS[name]
    given = settings(variant.settings(PLANS["quick"]), PLANS["quick"])
    model = PenttiTransformer.of(PenttiConfig.from_dict(given))
    if variant.change is not None:
        variant.change(model)
    return model


def memories(model):
    return [one for one in model.modules() if isinstance(one, SequenceMemory)]


def test_what_no_setting_says_is_changed_and_nothing_else():
    torch.manual_seed(0)
    ids = torch.randint(256, (2, 40))
    whole = made("as it is")
    wanted = whole(ids).logits
    for name in ("writes at addresses of its own", "addresses do not learn", "β does not learn"):
        torch.testing.assert_close(made(name)(ids).logits, wanted)  # at first
    apart = made("writes at addresses of its own")
    with torch.no_grad():
        for one in memories(apart):
            one.write_address.weight.neg_()
    assert not torch.allclose(apart(ids).logits, wanted)
    apart.loss(ids).backward()
    assert all(one.write_address.weight.grad.abs().sum() > 0 for one in memories(apart))
    fixed = made("addresses do not learn")
    fixed.loss(ids).backward()
    for one in memories(fixed):
        assert one.address.weight.grad is None
        assert all(p.grad is None for p in one.decoder.parameters())
        assert one.weigh.log_beta.grad is not None
    beta = made("β does not learn")
    beta.loss(ids).backward()
    assert all(one.weigh.log_beta.grad is None for one in memories(beta))
    for name, factor in (("four times", 4.0), ("a quarter of", 0.25)):
        for one, other in zip(
            memories(made(f"{name} β, which does not learn")), memories(whole), strict=True
        ):
            torch.testing.assert_close(one.weigh.beta, other.weigh.beta * factor)
            assert not one.weigh.log_beta.requires_grad
    assert all(one.address.weight.grad is not None for one in memories(beta))


def test_settings_are_what_the_names_say():
    usual = memories(made("as it is"))[0]
    few, many = (
        memories(made(f"{name} the locations"))[0].n_locations / usual.n_locations
        for name in ("a sixteenth of", "four times")
    )
    assert few == pytest.approx(1 / 16, rel=0.1)
    assert many == pytest.approx(4, rel=0.1)
    assert not memories(made("writes at its own place"))[0].shift
    assert memories(made("one location a head"))[0].top_k == 1
    assert memories(made("adds up (hebbian)"))[0].rule == "hebbian"
    assert memories(made("four codebooks"))[0].decoder.n_codebooks == 4


def test_it_runs_as_a_whole(tmp_path, monkeypatch):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(30):
        (folder / f"{i}.py").write_text(f"{i}: {i * i}, {i**3}\n" * 12)
    monkeypatch.setattr(language_runs.documents, "standard_library", lambda: str(folder))
    monkeypatch.setitem(PLANS, "quick", TINY)
    finding, steps = outcome_of(ablation.EXPERIMENT.run(Order()))
    shares = [step.share for step in steps]
    assert shares == sorted(shares)
    assert [row[0] for row in finding.tables[0].rows] == ["no memory", *VARIANTS]
    assert all(len(row) == len(finding.tables[0].columns) for row in finding.tables[0].rows)
    assert len(finding.claims) == 13
    assert "<svg" in finding.figures[0].svg


def runs(**changed):
    bits = dict.fromkeys(VARIANTS, 2.0) | {"no memory": 3.0} | changed
    return {
        name: [
            SimpleNamespace(bits=b + own, documents=[b + own - 0.01, b + own + 0.01])
            for own in (0.01 * seed * (name == "as it is") for seed in range(3))
        ]
        for name, b in bits.items()
    }


def verdict(number, **changed):
    return ablation._claims(runs(**changed))[number].holds


def test_verdicts_follow_the_numbers():
    assert verdict(0)
    assert not verdict(0, **{"no memory": 2.02})
    for number, name in enumerate([*list(VARIANTS)[1:4], "one location a head"], 1):
        assert verdict(number, **{name: 2.5})
        assert not verdict(number, **{name: 2.01})
    kept = {
        5: "β does not learn", 6: "four times β, which does not learn", 8: "32 locations a head",
        9: "four times the locations", 10: "four codebooks",
    }  # fmt: skip
    for number, name in kept.items():
        assert verdict(number, **{name: 2.05})
        assert not verdict(number, **{name: 2.3})
    costly = {
        7: "a quarter of β, which does not learn", 11: "a sixteenth of the locations",
        12: "adds up (hebbian)",
    }  # fmt: skip
    for number, name in costly.items():
        assert verdict(number, **{name: 2.5})
        assert not verdict(number, **{name: 2.01})
    assert "one location a head +30 %" in ablation._conclusion(
        runs(**{"one location a head": 2.31})
    )

"""Training: that it learns, goes on exactly, shares work exactly, and loses nothing."""

import math

import pytest
import torch
from helpers import outcome_of
from running import BRIEF, CURVE, SMALL, begun, curve, losses, run_of

from pentti.errors import TrainingError
from pentti.nn import PenttiTransformer
from pentti.training import (
    Run,
    Trainer,
    TrainingConfig,
    build,
    checkpoint,
    corpus_of,
    evaluate,
    model_of,
)
from pentti.training.learning import Learner, optimisers


def test_it_learns(texts, tmp_path):
    """Prediction: texts of one form go from 8 bits a byte to below 2 in 150 steps."""
    work = begun(tmp_path, run_of(texts, n_steps=150, save_every=150, validate_every=150))
    steps = list(work.run())
    assert steps[0].bits_per_byte > 7
    assert steps[-1].bits_per_byte < 2
    assert steps[-1].validation < 2
    assert [now.step for now in steps] == [*range(1, 151)]
    model, corpus = model_of(tmp_path), corpus_of(tmp_path)
    found, _ = outcome_of(evaluate(model, corpus, corpus.validation))
    assert found.bits_per_byte < 2
    for one, other in zip(model.parameters(), work.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_bfloat16_learns_as_float32_does(texts, tmp_path):
    """Products have 8 bits; weights, sums and the optimiser's averages stay in float32."""
    list(begun(tmp_path / "whole", run_of(texts, n_steps=40)).run())
    work = begun(tmp_path / "half", run_of(texts, n_steps=40, precision="bfloat16"))
    list(work.run())
    whole, half = losses(tmp_path / "whole"), losses(tmp_path / "half")
    assert half != whole
    assert half == pytest.approx(whole, rel=0.05)
    assert {p.dtype for p in work.model.parameters()} == {torch.float32}
    states = work.optimisers["adamw"].state.values()
    assert {state["exp_avg"].dtype for state in states} == {torch.float32}


@pytest.mark.slow
def test_a_compiled_model_learns_the_same_and_is_saved_as_any_other(
    texts, tmp_path, compiler, monkeypatch
):
    monkeypatch.setattr(
        torch, "compile", lambda model, **given: compiler(model, backend="aot_eager", **given)
    )
    for name, compiled in (("whole", False), ("compiled", True)):
        run = run_of(texts, compiled=compiled, n_steps=3)
        list(begun(tmp_path / name, run).run())
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)
    one, other = (model_of(tmp_path / name) for name in ("whole", "compiled"))
    assert set(one.state_dict()) == set(other.state_dict())


def test_batches_add_up(texts, tmp_path):
    """Two batches of one step move the model as their mean over all tokens does."""
    corpus, _ = outcome_of(build([str(texts)], tmp_path / "corpus"))
    torch.manual_seed(0)
    model = PenttiTransformer(257, **SMALL | {"dropout": 0.0}).double()
    work = Trainer(model, corpus, TrainingConfig.of(BRIEF.as_dict() | {"n_batches": 3}), tmp_path)
    pieces = [work.batches.pieces(i) for i in range(3)]
    n = sum(piece.n for one in pieces for piece in one)
    nats, meters = work._descend(pieces, n, False)
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    total = sum(work._nats(one)[0] for one in pieces) / n
    total.backward()
    assert meters == n * 2 * 2  # heads and locations of one memory
    assert nats / n == pytest.approx(total.item(), rel=1e-9)
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_checkpoint(texts, tmp_path):
    run = run_of(texts)
    work = begun(tmp_path, run)
    steps = work.run()
    for _ in range(4):
        next(steps)
    with torch.no_grad():
        work.model.embedding.weight.fill_(math.nan)
    message = (
        r"the loss of step 5 is nan; the last checkpoint is kept: .*step-00000003; "
        "in a new folder, a lower `lr`"
    )
    with pytest.raises(TrainingError, match=message):
        next(steps)
    again = begun(tmp_path, run)
    assert again.step == 3
    assert all(parameter.isfinite().all() for parameter in again.model.parameters())


@pytest.mark.parametrize("sparse", [False, True])
def test_a_gradient_that_is_no_number_changes_nothing(texts, tmp_path, sparse):
    model = {**SMALL, "memory_kind": "sdm", "n_locations": 49, "sparse_gradients": sparse}
    work = begun(tmp_path, Run(sources=[texts], model=model, training=BRIEF))
    (memory,) = work._learned
    memory.contents.register_hook(lambda gradient: gradient * math.inf)
    before = [parameter.clone() for parameter in work.model.parameters()]
    with pytest.raises(TrainingError, match=r"the gradient of step 1 is (nan|inf); there is no ch"):
        next(work.run())
    for one, other in zip(before, work.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_parameters_that_explode_are_not_saved(texts, tmp_path):
    work = begun(tmp_path, run_of(texts, n_steps=1, n_warm_up=0, lr=1e30))
    with pytest.raises(TrainingError, match=r"the validation after step 1 is (nan|inf)"):
        list(work.run())
    assert not checkpoint.saved(work.checkpoints)


def test_a_parameter_that_is_no_number_is_not_saved(texts, tmp_path):
    work = begun(tmp_path, run_of(texts))
    with torch.no_grad():
        work.model.embedding.weight[256, 0] = math.inf
    with pytest.raises(TrainingError, match=r"embedding.weight after step 0 is not finite; there"):
        work.save()
    assert not checkpoint.saved(work.checkpoints)


def test_the_callers_random_numbers_are_left_alone(texts, tmp_path):
    work = begun(tmp_path, run_of(texts))
    torch.manual_seed(5)
    wanted = torch.rand(4)
    torch.manual_seed(5)
    next(steps := work.run())
    assert torch.equal(torch.rand(4), wanted)
    steps.close()


def test_the_learning_rate_rises_and_falls_as_a_cosine_does():
    config = TrainingConfig(n_steps=110, n_warm_up=10, last_lr=0.2)
    rates = [config.rate(step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10] == 1
    assert rates[60] == pytest.approx(0.2 + 0.8 / 2)
    assert rates[35] == pytest.approx(0.2 + 0.8 * (1 + 0.5**0.5) / 2)
    assert rates[109] == pytest.approx(0.2, abs=1e-3)
    assert TrainingConfig(n_steps=4, n_warm_up=0).rate(0) == 1


def test_the_rate_and_the_clip_reach_the_update(texts, tmp_path):
    """AdamW's first step is as long as the rate, whatever the gradient; Adagrad's too."""
    for memory_lr, lr in ((0.5, 1e-4), (1e-4, 0.5)):
        changes = {"lr": lr, "memory_lr": memory_lr, "n_warm_up": 4, "weight_decay": 0.0}
        model = {**SMALL, "memory_kind": "sdm", "n_locations": 49, "dropout": 0.0}
        training = TrainingConfig.of(BRIEF.as_dict() | changes)
        work = begun(tmp_path / f"{lr}", Run(sources=[texts], model=model, training=training))
        before = {name: one.detach().clone() for name, one in work.model.named_parameters()}
        steps = work.run()
        next(steps)
        steps.close()
        for name, one in work.model.named_parameters():
            moved = float((one.detach() - before[name]).abs().max())
            rate = memory_lr if name.endswith("contents") else lr
            assert moved == pytest.approx(rate / 4, rel=0.01), name
        (row,) = curve(tmp_path / f"{lr}")
        assert float(row[CURVE.index("lr")]) == pytest.approx(lr / 4)


def test_long_gradients_are_shortened(texts, tmp_path):
    work = begun(tmp_path, run_of(texts, clip=1e-3))
    work._descend([work.batches.pieces(0)], 64, False)
    whole = work._update(0.0)
    work._descend([work.batches.pieces(0)], 64, False)
    found = [parameter.grad.clone() for parameter in work.model.parameters()]
    assert float(torch.stack([g.square().sum() for g in found]).sum().sqrt()) == pytest.approx(
        whole
    )
    clipped = []
    step = work.optimisers["adamw"].step
    work.optimisers["adamw"].step = lambda: (
        clipped.extend(p.grad.clone() for p in work.model.parameters()), step(),
    )  # fmt: skip
    work._update(0.0)
    assert whole > 1e-2
    for one, other in zip(clipped, found, strict=True):
        torch.testing.assert_close(one, other * 1e-3 / whole)


def test_validation_reads_a_row_of_each_document_first(texts, tmp_path):
    work = begun(tmp_path, run_of(texts, validation_tokens=10_000, context=64))
    pieces = work._validation()
    kept = work.corpus.validation
    assert [piece.document for piece in pieces[: len(kept)]] == kept
    assert {piece.start for piece in pieces[: len(kept)]} == {0}
    for document in kept:
        own = [piece for piece in pieces if piece.document == document]
        assert [piece.start for piece in own] == [64 * i for i in range(len(own))]
        assert sum(piece.n for piece in own) == work.corpus.n_ids(document) - 1
    few = begun(tmp_path / "few", run_of(texts, validation_tokens=70, context=64))._validation()
    assert [piece.n for piece in few] == [64, 6]
    nats = sum(float(work._nats([piece])[1]) for piece in pieces)  # in training mode: dropout
    work.model.eval()
    quiet = sum(float(work._nats([piece])[1]) for piece in pieces)
    n_bytes = sum(piece.n for piece in pieces)
    assert work.validate() == pytest.approx(quiet / math.log(2) / n_bytes, rel=1e-5)
    assert nats != quiet


def test_matrices_decay_and_vectors_do_not(texts):
    model = PenttiTransformer(257, **SMALL)
    (one,) = optimisers(model, BRIEF).values()
    decays = {id(p): group["weight_decay"] for group in one.param_groups for p in group["params"]}
    assert len(decays) == len(list(model.parameters()))
    for parameter in model.parameters():
        assert (decays[id(parameter)] > 0) == (parameter.ndim > 1)


def test_the_beta_of_attention_has_a_rate_of_its_own(texts):
    model = PenttiTransformer(257, **SMALL | {"beta": 5.0})
    config = TrainingConfig.of(BRIEF.as_dict() | {"beta_lr": 0.5})
    (one,) = optimisers(model, config).values()
    rates = {id(p): group["lr"] for group in one.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    fast = [name for name, p in model.named_parameters() if rates[id(p)] == 0.5]
    assert len(fast) == SMALL["n_layers"]
    assert all(name.endswith(".log_beta") for name in fast)


def test_crowding_is_part_of_what_is_to_become_less():
    torch.manual_seed(1)
    model = PenttiTransformer(257, **SMALL | {"dropout": 0.0})
    ids = torch.randint(257, (2, 30))
    plain, nats, meters = Learner(model)(ids, ids, None)
    more, again, _ = Learner(model, 0.5)(ids, ids, None)
    assert int(meters) == ids.numel() * 4
    torch.testing.assert_close(nats, again)
    assert plain == nats
    assert more > plain + 0.1

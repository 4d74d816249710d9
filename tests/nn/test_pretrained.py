"""A model in a folder: what is saved comes back, and what is wrong is told."""

import json

import pytest
import torch

from pentti.errors import StoreError
from pentti.nn.transformer import PenttiTransformer


def model(**settings):
    torch.manual_seed(3)
    sizes = {"memory_layers": (1,), "memory_heads": 2, "top_k": 3, "window": 3}
    return PenttiTransformer(11, 16, 3, 2, 49, **{**sizes, **settings})


@pytest.fixture
def folder(tmp_path):
    model().save_pretrained(tmp_path / "deep" / "model")
    return tmp_path / "deep" / "model"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_saved_comes_back(tmp_path, tied, dtype, generator):
    made = model(tied=tied, local="longformer", n_global=2, causal=True, dropout=0.1).to(dtype)
    made.save_pretrained(tmp_path)
    torch.manual_seed(99)
    again = PenttiTransformer.from_pretrained(tmp_path)
    assert again.config == made.config
    assert again.training
    own, other = made.state_dict(), again.state_dict()
    assert list(own) == list(other)
    for name, tensor in own.items():
        assert other[name].dtype == tensor.dtype
        assert torch.equal(other[name], tensor)
    ids = torch.randint(11, (2, 7), generator=generator)
    assert torch.equal(again.eval()(ids).logits, made.eval()(ids).logits)
    again.loss(ids).backward()
    assert all(p.requires_grad and p.grad.shape == p.shape for p in again.parameters())


def test_mixed_dtypes_are_kept(tmp_path):
    made = model()
    made.blocks[1].mixer.memory.contents.data = made.blocks[1].mixer.memory.contents.data.half()
    made.save_pretrained(tmp_path)
    again = PenttiTransformer.from_pretrained(tmp_path)
    assert again.blocks[1].mixer.memory.contents.dtype == torch.float16
    assert again.embedding.weight.dtype == torch.float32


def test_a_loaded_model_does_not_hang_on_the_file(folder, generator):
    again = PenttiTransformer.from_pretrained(folder)
    ids = torch.randint(11, (2, 7), generator=generator)
    before = again(ids).logits
    model(seed=7).save_pretrained(folder)
    assert torch.equal(again(ids).logits, before)
    with torch.no_grad():
        again.embedding.weight.zero_()
    assert PenttiTransformer.from_pretrained(folder).embedding.weight.any()


def test_saving_leaves_two_files(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    written = json.loads((folder / "config.json").read_text())
    assert written["settings"]["memory_layers"] == [1]
    assert written["state_version"] == 1


def test_a_save_that_fails_leaves_the_old_model(folder, monkeypatch):
    before = [path.read_bytes() for path in sorted(folder.iterdir())]

    def full(*args, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(StoreError, match=r"cannot write .*No space left on device; what was there"):
        model(seed=7, tied=False).save_pretrained(folder)
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == before


def rewritten(folder, change):
    path = folder / "config.json"
    written = json.loads(path.read_text())
    change(written)
    path.write_text(json.dumps(written))


def test_a_model_saved_before_there_were_sequence_memories_still_loads(folder):
    from pentti.persistence import load_tensors, save_tensors

    before = model().state_dict()

    def older(written):
        for name in ("memory_kind", "sequence"):
            del written["settings"][name]

    rewritten(folder, older)
    written = json.loads((folder / "config.json").read_text())
    _, tensors = load_tensors(folder / "model.safetensors", "transformer")
    save_tensors(folder / "model.safetensors", "transformer", written, tensors)
    again = PenttiTransformer.from_pretrained(folder)
    assert again.config == model().config
    assert list(again.state_dict()) == list(before)
    assert all(torch.equal(again.state_dict()[name], before[name]) for name in before)


def test_bad_settings_of_sequence_memories_are_told(folder):
    rewritten(folder, lambda written: written["settings"]["sequence"].update(top_k=0))
    with pytest.raises(StoreError, match=r"config\.json: SequenceConfig: `top_k` must be at least"):
        PenttiTransformer.from_pretrained(folder)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(StoreError, match=r"cannot write .*file: File exists"):
        model().save_pretrained(tmp_path / "file")


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(StoreError, match=r"cannot read .*nowhere.config\.json: No such file"):
        PenttiTransformer.from_pretrained(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(StoreError, match=r"cannot read .*model\.safetensors: there is no such fi"):
        PenttiTransformer.from_pretrained(folder)


@pytest.mark.parametrize("cut", [0, 5, 1000, -1])
def test_a_damaged_state_is_told(folder, cut):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(StoreError, match=r"model\.safetensors: it is damaged"):
        PenttiTransformer.from_pretrained(folder)


def test_a_flipped_bit_is_told(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-7] ^= 4
    path.write_bytes(content)
    with pytest.raises(StoreError, match="its checksum does not match"):
        PenttiTransformer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, r"config\.json: it is damaged \(no JSON\)"),
        ("{", r"config\.json: it is damaged \(no JSON\)"),
        ("[]", r"config\.json: it does not describe a pentti transformer"),
        ('{"model_type": "bert"}', r"config\.json: it does not describe a pentti transformer"),
        (
            '{"pentti": "transformer"}',
            r"config\.json: it is damaged \(no settings, or no version\)",
        ),
    ],
)
def test_a_foreign_config_is_told(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises(StoreError, match=message):
        PenttiTransformer.from_pretrained(folder)


def test_a_newer_state_is_told(folder):
    rewritten(folder, lambda written: written.update(state_version=2))
    with pytest.raises(StoreError, match="its state version 2 is newer than 1, the newest that"):
        PenttiTransformer.from_pretrained(folder)


def test_settings_out_of_range_are_told(folder):
    rewritten(folder, lambda written: written["settings"].update(dim=15))
    with pytest.raises(StoreError, match=r"config\.json: PenttiConfig: `dim` must be a multiple"):
        PenttiTransformer.from_pretrained(folder)


def test_a_config_and_a_state_of_two_saves_are_told(folder):
    rewritten(folder, lambda written: written["settings"].update(n_locations=64))
    with pytest.raises(StoreError, match=r"config\.json and model\.safetensors are not of the sa"):
        PenttiTransformer.from_pretrained(folder)


def test_another_kind_of_file_is_told(folder):
    from pentti.persistence import save_tensors

    save_tensors(folder / "model.safetensors", "memory", {}, {"contents": torch.zeros(2)})
    with pytest.raises(StoreError, match="it holds a pentti memory, a pentti transformer is exp"):
        PenttiTransformer.from_pretrained(folder)


def test_a_state_of_another_shape_is_told(folder):
    from pentti.persistence import load_tensors, save_tensors

    written, tensors = load_tensors(folder / "model.safetensors", "transformer")
    tensors["norm.weight"] = torch.ones(17)
    save_tensors(folder / "model.safetensors", "transformer", written, tensors)
    with pytest.raises(StoreError, match=r"norm\.weight has shape \(17,\), this model's has \(16,"):
        PenttiTransformer.from_pretrained(folder)
    del tensors["norm.weight"]
    tensors["colour"] = torch.ones(2)
    save_tensors(folder / "model.safetensors", "transformer", written, tensors)
    with pytest.raises(StoreError, match=r"it lacks norm\.weight and has the unknown colour"):
        PenttiTransformer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_locations": 50}, "ProductKeys: `n_locations` must be a square"),
        ({"top_k": 50}, r"`top_k` must be in \[1, 49\], got 50"),
        ({"memory_heads": 3}, "`dim` must be a multiple of 6"),
    ],
)
def test_settings_that_make_no_model_are_told(folder, changed, message):
    rewritten(folder, lambda written: written["settings"].update(changed))
    with pytest.raises(StoreError, match=rf"cannot read .*model: .*{message}"):
        PenttiTransformer.from_pretrained(folder)


def test_a_model_comes_to_the_cpu_whatever_the_default(folder):
    with torch.device("meta"):
        again = PenttiTransformer.from_pretrained(folder)
    assert torch.equal(again.embedding.weight, model().embedding.weight)

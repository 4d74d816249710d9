"""Saving and loading: whole, or an error that says why, and never a lost file."""

import errno
import json
import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from pentti import (
    HammingBall,
    Hyperplane,
    SelectedCoordinates,
    SparseDistributedMemory,
    bits,
    files,
    persistence,
)
from pentti.errors import ArgumentError, StoreError

DECODERS = [
    HammingBall(130, 300, activation_probability=0.02, seed=3),
    SelectedCoordinates(130, 300, n_selected=4, seed=3),
    Hyperplane(130, 300, n_ones=30, n_selected=2, seed=3),
    HammingBall.at(torch.eye(130), radius=3),
]


def loaded(decoder, generator, dtype=torch.int16, word_bits=70):
    memory = SparseDistributedMemory(decoder, word_bits, counter_dtype=dtype)
    address = decoder.random_addresses(40, generator=generator)
    memory.write(address, bits.random(40, word_bits, generator=generator))
    return memory


@pytest.fixture
def memory(generator):
    return loaded(DECODERS[0], generator)


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.float32], ids=str)
def test_a_saved_memory_comes_back_bit_for_bit(decoder, dtype, generator, tmp_path):
    memory = loaded(decoder, generator, dtype)
    memory.save(tmp_path / "memory.safetensors")
    again = SparseDistributedMemory.load(tmp_path / "memory.safetensors")
    state, before = again.state_dict(), memory.state_dict()
    assert state.pop("_extra_state") == before.pop("_extra_state")
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in state)
    cue = decoder.random_addresses(9, generator=generator)
    assert torch.equal(again.read_sums(cue).sums, memory.read_sums(cue).sums)
    assert torch.equal(again.familiarity(cue), memory.familiarity(cue))
    assert again.statistics() == memory.statistics()
    assert repr(again) == repr(memory)
    again.write(cue, bits.random(9, 70, generator=generator))
    assert int(again.n_written) == 49


def test_saving_replaces_the_old_file_and_leaves_nothing_else(memory, tmp_path):
    path = tmp_path / "memory.safetensors"
    for _ in range(2):
        memory.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["memory.safetensors"]


def refuses(path, message):
    with pytest.raises(StoreError, match=message):
        SparseDistributedMemory.load(path)


def test_missing_and_foreign_files_are_named(memory, tmp_path):
    refuses(tmp_path / "none", "cannot read .*none: there is no such file$")
    refuses(tmp_path, "cannot read .*: it is a directory$")
    text = tmp_path / "text"
    text.write_text("nothing of the kind" * 100)
    refuses(text, "cannot read .*text: it is damaged, or not a pentti file$")
    text.write_bytes(b"")
    refuses(text, "it is damaged, or not a pentti file$")
    safetensors.torch.save_file({"x": torch.zeros(3)}, text)
    refuses(text, "it holds something foreign, a pentti memory is expected$")
    persistence.save_tensors(text, "other", {}, {"x": torch.zeros(3)})
    refuses(text, "it holds a pentti other, a pentti memory is expected$")


def test_a_truncated_file_is_refused_wherever_it_ends(memory, tmp_path):
    path = tmp_path / "memory.safetensors"
    memory.save(path)
    whole = path.read_bytes()
    for end in (1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        refuses(path, "cannot read .*: it is damaged")


def test_a_flipped_bit_is_found_wherever_it_is(memory, tmp_path):
    path = tmp_path / "memory.safetensors"
    memory.save(path)
    whole = path.read_bytes()
    for place in range(8, len(whole), len(whole) // 97):
        broken = bytearray(whole)
        broken[place] ^= 4
        path.write_bytes(bytes(broken))
        refuses(path, "cannot read .*")
    path.write_bytes(whole)
    assert SparseDistributedMemory.load(path).statistics() == memory.statistics()


def test_a_newer_format_is_refused(memory, tmp_path, monkeypatch):
    path = tmp_path / "memory.safetensors"
    monkeypatch.setattr(persistence, "FORMAT_VERSION", 2)
    memory.save(path)
    monkeypatch.setattr(persistence, "FORMAT_VERSION", 1)
    refuses(
        path, "its format 2 is newer than 1, the newest that this pentti reads; install a newer"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"counter_dtype": "torch.uint8"},
        {"word_bits": 71},
        {"decoder": {"decoder": "Ball"}},
        {"decoder": {"decoder": "HammingBall", "n": 3}},
    ],
)
def test_settings_that_do_not_fit_the_tensors_are_refused(memory, tmp_path, change):
    path = tmp_path / "memory.safetensors"
    memory.save(path)
    config, tensors = persistence.load_tensors(path, "memory")
    persistence.save_tensors(path, "memory", {**config, **change}, tensors)
    refuses(path, "cannot read .*: it is damaged ")


def test_a_full_disk_leaves_the_old_file(memory, tmp_path, monkeypatch):
    path = tmp_path / "memory.safetensors"
    memory.save(path)
    before = path.read_bytes()

    monkeypatch.setattr(files.os, "fsync", full)
    memory.clear()
    with pytest.raises(StoreError, match=r"cannot write .*: No space left on device; what was"):
        memory.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_write_that_really_fails_half_way_leaves_the_old_file(memory, tmp_path):
    path = tmp_path / "memory.safetensors"
    memory.save(path)
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED_SAVE, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"StoreError cannot write {path}: "), done.stdout
    assert "File too large" in done.stdout
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["memory.safetensors"]


LIMITED_SAVE = """
import resource, signal, sys
from pentti import SparseDistributedMemory, StoreError
memory = SparseDistributedMemory.load(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    memory.save(sys.argv[1])
except StoreError as error:
    print("StoreError", error)
"""


def test_ctrl_c_while_saving_leaves_the_old_file(memory, tmp_path, monkeypatch):
    path = tmp_path / "memory.safetensors"
    memory.save(path)
    before = path.read_bytes()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        memory.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_impossible_places_are_named(memory, tmp_path):
    with pytest.raises(StoreError, match="it is a directory, a file is expected"):
        memory.save(tmp_path)
    with pytest.raises(StoreError, match=r"cannot write .*: No such file or directory"):
        memory.save(tmp_path / "no" / "memory")


def test_the_settings_lie_open_in_the_file(memory, tmp_path):
    path = tmp_path / "memory.safetensors"
    memory.save(path)
    with safetensors.safe_open(path, "pt") as file:
        header = file.metadata()
    assert header["pentti"] == "memory"
    assert header["format_version"] == "1"
    assert json.loads(header["config"])["decoder"]["n_locations"] == 300


def test_a_loaded_memory_does_not_hang_on_its_file(memory, tmp_path):
    path = tmp_path / "memory.safetensors"
    memory.save(path)
    again = SparseDistributedMemory.load(path)
    with path.open("r+b") as file:
        file.truncate(10)
    assert torch.equal(again.contents, memory.contents)


def test_a_link_stays_a_link(memory, tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    memory.save(link)
    assert link.is_symlink()
    assert SparseDistributedMemory.load(target).statistics() == memory.statistics()


def test_what_is_no_regular_file_is_left_alone(memory, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="it is no regular file, a file is expected"):
        memory.save(tmp_path / "pipe")


def test_a_folder_that_cannot_be_synced_is_no_error(memory, tmp_path, monkeypatch):
    sync = files.sync
    monkeypatch.setattr(files, "sync", lambda p: sync(p) if p.is_file() else full())
    memory.save(tmp_path / "memory")
    assert SparseDistributedMemory.load(tmp_path / "memory").statistics() == memory.statistics()


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_decoder_that_cannot_be_restored_is_refused_at_once(tmp_path):
    class Mine(HammingBall):
        def config(self):
            return {**super().config(), "decoder": "Mine"}

    memory = SparseDistributedMemory(Mine(40, 30, radius=15))
    with pytest.raises(
        ArgumentError, match=r"`decoder` must be one of 'HammingBall', .*got 'Mine'"
    ):
        memory.save(tmp_path / "memory")
    assert list(tmp_path.iterdir()) == []


def test_long_names_can_be_saved(memory, tmp_path):
    memory.save(tmp_path / ("x" * 250))
    assert SparseDistributedMemory.load(tmp_path / ("x" * 250)).word_bits == 70

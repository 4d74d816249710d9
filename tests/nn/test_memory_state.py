"""What a sequence memory has written: kept, copied, joined, bounded, saved and looked into."""

import itertools
import re
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from pentti import files, persistence
from pentti.errors import ArgumentError, StoreError
from pentti.kernels import hashing
from pentti.nn import MemoryState, SequenceMemory

SETTINGS = {"n_heads": 2, "n_locations": 25, "width": 3, "top_k": 2}
VAST = 4096**2  # of which only touched locations are to cost anything
FORMS = {
    "hebbian": {},
    "fading": {"decay": True},
    "delta": {"rule": "delta", "decay": True, "write_gate": True},
    "bounded": {"max_locations": 7},
    "vast": {"n_locations": VAST},
    "vast delta": {"n_locations": VAST, "rule": "delta", "decay": True},
    "vast bounded": {"n_locations": VAST, "max_locations": 7},
}


def make(**settings):
    torch.manual_seed(3)
    sizes = {"n_locations": 25, "top_k": 2, "address_dim": 4}
    layer = SequenceMemory(6, 2, **sizes | settings)
    return layer.double().requires_grad_(False)


@pytest.fixture(params=FORMS)
def layer(request):
    return make(**FORMS[request.param])


def tokens(generator, length=11, batch=3):
    return torch.randn(batch, length, 6, dtype=torch.float64, generator=generator)


def repeating(generator, length, n_words):
    """Texts of few words: among very many locations, others hardly ever meet."""
    words = torch.randn(n_words, 6, dtype=torch.float64, generator=generator)
    return words[torch.randint(n_words, (3, length), generator=generator)]


def written(layer, x):
    state = layer.new_cache(len(x))
    layer(x, state)
    return state


@pytest.fixture
def state(layer, generator):
    return written(layer, tokens(generator))


def parts(state, sequence):
    """All that one sequence of a state knows."""
    heads = range(state.n_heads)
    tables = [x for h in heads for x in (state.locations(sequence, h), *state.table(sequence, h))]
    last = (state.last_locations, state.last_weights, state.n_tokens, state.n_touched)
    return [*tables, *(x[sequence] for x in last)]


def is_same(one, other):
    assert (one.batch, repr(one), one.dtype) == (other.batch, repr(other), other.dtype)
    for b in range(one.batch):
        assert all(torch.equal(x, y) for x, y in zip(parts(one, b), parts(other, b), strict=True))


def test_it_holds_what_was_written(generator):
    """Contents and evidence of every location, by the definition."""
    layer, x = make(shift=False), tokens(generator)
    state = written(layer, x)
    locations, similarity, active = layer.decoder.nearest(layer.address(x))
    weights, _ = layer.weigh(similarity, active, limited=False)
    values = layer.value(x).unflatten(-1, (2, 3))
    for b, h in itertools.product(range(3), range(2)):
        evidence = torch.zeros(25, dtype=torch.float64)
        evidence.index_add_(0, locations[b, :, h].flatten(), weights[b, :, h].flatten())
        contents = torch.zeros(25, 3, dtype=torch.float64)
        each = weights[b, :, h, :, None] * values[b, :, h, None]
        contents.index_add_(0, locations[b, :, h].flatten(), each.flatten(0, 1))
        touched = state.locations(b, h)
        assert torch.equal(touched, locations[b, :, h].unique())
        torch.testing.assert_close(state.table(b, h), (contents[touched], evidence[touched]))
        assert state.n_touched[b, h] == len(touched)
        assert state.fullness[b, h] == len(touched) / 25
    assert state.n_tokens.tolist() == [11] * 3


def test_what_it_shows_are_copies(state):
    before = parts(state.clone(), 0)
    for x in (*state.table(0, 0), state.locations(0, 0), state.n_touched):
        x.zero_()
    assert all(torch.equal(x, y) for x, y in zip(parts(state, 0), before, strict=True))


@pytest.mark.parametrize("n_locations", [25, VAST])
def test_what_gradients_wrote_is_in_the_same_order(n_locations, generator):
    layer, x = make(n_locations=n_locations), tokens(generator)
    state = written(layer, x)
    is_close(written(layer.requires_grad_(), x).detach(), state)


def is_close(one, other):
    for b in range(other.batch):
        torch.testing.assert_close(parts(one, b), parts(other, b))


def test_a_table_shows_what_has_faded(generator):
    layer = make(decay=True, shift=False)
    layer.kept.fill_(0.0)
    state = written(layer, torch.ones(1, 1, 6, dtype=torch.float64))
    first = [x.clone() for x in state.table(0, 0)]
    layer(torch.full((1, 1, 6), torch.nan, dtype=torch.float64), state)  # writes nothing
    later = state.table(0, 0)
    assert first[1].sum() > 0
    torch.testing.assert_close(later, tuple(0.95 * x for x in first))
    state.rescale()
    torch.testing.assert_close(state.table(0, 0), later)
    assert not state.scale.any()


def test_a_clone_shares_nothing(layer, state, generator):
    twin, x = state.clone(), tokens(generator)
    before = [parts(twin, b) for b in range(3)]
    layer(x, state)
    state.clear()
    for b in range(3):
        assert all(torch.equal(p, q) for p, q in zip(parts(twin, b), before[b], strict=True))
    pointers = [{x.data_ptr() for x in vars(s).values() if isinstance(x, torch.Tensor)}
                for s in (state, twin)]  # fmt: skip
    assert not pointers[0] & pointers[1] - {0}


def test_select_gives_copies_in_order(layer, state, generator):
    some = state.select([2, 0, 2])
    for new, old in enumerate([2, 0, 2]):
        assert all(
            torch.equal(x, y) for x, y in zip(parts(some, new), parts(state, old), strict=True)
        )
    x, before = tokens(generator, batch=1), parts(state, 2)
    found = layer(x.expand(3, -1, -1), some).output
    assert torch.equal(found[0], found[2])
    assert all(torch.equal(p, q) for p, q in zip(parts(state, 2), before, strict=True))
    torch.testing.assert_close(found[:1], layer(x, state.select(torch.tensor([2]))).output)
    assert state.select([]).batch == 0


def test_stack_joins_users(layer, generator):
    x = tokens(generator)
    apart = [written(layer, x[b : b + 1, : 3 * b + 1]) for b in range(3)]
    before = [parts(one, 0) for one in apart]
    joined = MemoryState.stack(apart)
    assert joined.batch == 3
    for b in range(3):
        is_same(joined.select([b]), apart[b])
    more = tokens(generator)
    found = layer(more, joined).output
    for b in range(3):
        assert all(torch.equal(p, q) for p, q in zip(parts(apart[b], 0), before[b], strict=True))
        torch.testing.assert_close(layer(more[b : b + 1], apart[b]).output, found[b : b + 1])


def test_one_user_is_cleared_and_the_others_keep_all(layer, state, generator):
    before = state.clone()
    state.clear(1)
    for b in (0, 2):
        assert all(
            torch.equal(x, y) for x, y in zip(parts(state, b), parts(before, b), strict=True)
        )
    is_same(state.select([1]), layer.new_cache(1))
    x = tokens(generator)
    found = layer(x, state).output
    torch.testing.assert_close(found[1:2], layer(x[1:2]).output)
    torch.testing.assert_close(found[::2], layer(x, before).output[::2])
    state.clear()
    is_same(state, layer.new_cache(3))
    torch.testing.assert_close(layer(x, state).output, layer(x).output)


def test_clearing_one_user_leaves_the_gradients_of_the_others(generator):
    layer, x = make().requires_grad_(), tokens(generator).requires_grad_()
    state = layer.new_cache(3)
    earlier = layer(x[:, :6], state).output
    earlier = earlier + layer(x[:, 6:7], state).output  # which needs the tables as they were
    state.clear(1)
    later = layer(x[:, 7:], state).output
    (found,) = torch.autograd.grad(earlier.sum() + later.square().sum(), x, retain_graph=True)
    assert found.abs().max() > 0
    (found,) = torch.autograd.grad(later.square().sum(), x)
    assert not found[1, :7].any()
    assert found[::2, :7].any()


def test_a_state_of_inference_mode_is_cleared(generator):
    layer = make(max_locations=7)
    with torch.inference_mode():
        state = written(layer, tokens(generator))
    state.clear(0)
    assert state.n_touched[0].tolist() == [0, 0]
    assert (state.n_touched[1:] > 0).all()


@pytest.mark.parametrize("n_locations", [25, VAST])
@pytest.mark.parametrize("gradients", [False, True], ids=["in place", "with gradients"])
def test_merged_states_are_one_call(gradients, n_locations, generator):
    """Of writes that add up: it does not matter who wrote what, nor in which order."""
    layer = make(shift=False, n_locations=n_locations).requires_grad_(gradients)
    x, y, more = (tokens(generator, length) for length in (11, 5, 4))
    y[:, 1:3] = x[:, 1:3]  # so that both touch some locations
    whole = written(layer, torch.cat([x, y], 1))
    first, second = written(layer, x), written(layer, y)
    kept = second.clone()
    merged = first.clone().merge(second)
    is_same(second, kept)
    is_close(merged, whole)
    back = second.merge(first)
    back.last_locations, back.last_weights = whole.last_locations, whole.last_weights
    is_close(back, whole)
    torch.testing.assert_close(layer(more, merged).output, layer(more, whole).output)


def test_the_next_write_goes_where_the_other_pointed(generator):
    layer = make()
    x, y, more = (tokens(generator, length) for length in (7, 5, 4))
    first, second = written(layer, x), written(layer, y)
    merged = first.clone().merge(second)
    assert torch.equal(merged.last_locations, second.last_locations)
    merged = first.clone().merge(layer.new_cache(3))
    is_close(merged, first)
    torch.testing.assert_close(layer(more, merged).output, layer(more, first).output)
    is_close(layer.new_cache(3).merge(first), first)


def test_merging_what_has_faded(generator):
    layer = make(decay=True)
    layer.kept.fill_(0.0)
    first, second = (written(layer, tokens(generator, 5)) for _ in range(2))
    dense = []
    for state in (first, second, first.clone().merge(second)):
        table = torch.zeros(3, 2, 25, dtype=torch.float64)
        for b, h in itertools.product(range(3), range(2)):
            table[b, h, state.locations(b, h)] = state.table(b, h)[1]
        dense.append(table)
    torch.testing.assert_close(dense[0] + dense[1], dense[2])
    assert dense[2].sum() > 1


def test_a_merged_state_keeps_to_its_bound(generator):
    layer = make(max_locations=7)
    merged = written(layer, tokens(generator)).merge(written(layer, tokens(generator)))
    assert merged.n_touched.max() <= 7
    assert merged.n_touched.min() > 3


@pytest.mark.parametrize("far", [1, 2**37 - 1], ids=["direct", "hashed"])
@pytest.mark.parametrize(("forget", "kept"), [("oldest", [4, 5, 6, 7]), ("least", [1, 5, 6, 7])])
def test_the_oldest_or_the_least_goes_first(forget, kept, far):
    """Location 1 was written first, and most; of five, one is too many."""
    state = MemoryState(2, 1, 8 * far, 1, 1, max_locations=4, forget=forget)
    for time, location in enumerate([1, 1, 1, 4, 5, 6, 7], start=1):
        at = torch.tensor([location * far, 0]).view(2, 1, 1)
        wanted = torch.tensor([True, False]).view(2, 1, 1)
        state.touch(at, wanted)
        row = state.rows(at)[0, 0, 0]
        weight = 1 if location != 4 else 0.5
        state.contents[0, row] += 10.0 * location * weight
        state.evidence[0, row] += weight
        state.note(at, wanted, torch.full((2, 1), time))
    assert state.locations(0, 0).tolist() == [k * far for k in kept]
    expected = {1: 30.0, 4: 20.0, 5: 50.0, 6: 60.0, 7: 70.0}
    assert state.table(0, 0)[0].flatten().tolist() == [expected[k] for k in kept]
    assert state.n_touched.tolist() == [[4], [0]]
    forgotten = (({1, 4} - {*kept}).pop() * far, 0)
    state.touch(torch.tensor(forgotten).view(2, 1, 1), torch.tensor([True, False]).view(2, 1, 1))
    again = state.locations(0, 0).tolist().index(forgotten[0])
    assert state.table(0, 0)[0][again] == 0  # what comes back starts anew


def test_what_was_forgotten_is_as_if_never_written(generator):
    layer, free = make(max_locations=7), make()
    x, more = tokens(generator), tokens(generator, 1)
    state, whole = written(layer, x), written(free, x)
    for b, h in itertools.product(range(3), range(2)):
        here = torch.isin(whole.locations(b, h), state.locations(b, h))
        assert not here.all()
        for one, other in zip(state.table(b, h), whole.table(b, h), strict=True):
            assert torch.equal(one, other[here])
        gone = torch.isin(whole.keys[2 * b + h], whole.locations(b, h)[~here])
        rows = (gone & whole._held()[2 * b + h]).nonzero()[:, 0]
        whole.contents[2 * b + h, rows] = 0
        whole.evidence[2 * b + h, rows] = 0
    torch.testing.assert_close(layer(more, state).output, free(more, whole).output)


def test_detach_cuts_the_history_in_place(generator):
    layer = make(decay=True).requires_grad_()
    state = written(layer, tokens(generator))
    assert state.contents.requires_grad
    assert state.scale.requires_grad
    assert state.detach() is state
    assert not any(x.requires_grad for x in vars(state).values() if isinstance(x, torch.Tensor))


def test_it_moves(state):
    moved = state.to("meta")
    assert moved.device.type == "meta"
    assert moved.contents.shape == state.contents.shape
    assert state.device.type == "cpu"
    is_same(state.to("cpu"), state)


def test_a_saved_state_comes_back_bit_for_bit(layer, state, generator, tmp_path):
    state.clear(1)
    state.save(tmp_path / "state")
    again = MemoryState.load(tmp_path / "state")
    is_same(again, state)
    x = tokens(generator)
    torch.testing.assert_close(layer(x, again).output, layer(x, state).output, rtol=0, atol=0)
    is_same(again, state)  # what is forgotten next, too


@pytest.mark.parametrize("batch", [0, 2])
def test_an_empty_state_is_saved_too(batch, tmp_path):
    state = make(max_locations=5, forget="least").new_cache(batch)
    state.save(tmp_path / "state")
    again = MemoryState.load(tmp_path / "state")
    is_same(again, state)
    assert (again.max_locations, again.forget) == (5, "least")


def test_a_state_with_a_history_is_saved(generator, tmp_path):
    state = written(make(decay=True).requires_grad_(), tokens(generator))
    state.save(tmp_path / "state")
    assert not MemoryState.load(tmp_path / "state").contents.requires_grad
    is_same(MemoryState.load(tmp_path / "state"), state.detach())


def test_a_file_holds_the_touched_locations_only(generator, tmp_path):
    layer = SequenceMemory(64, 1, n_locations=65536).requires_grad_(False)
    state = written(layer, torch.randn(1, 50, 64, generator=generator))
    state.save(tmp_path / "state")
    size = (tmp_path / "state").stat().st_size
    assert state.touched_bytes < size < state.touched_bytes + 3000
    assert state.touched_bytes == int(state.n_touched.sum()) * (65 * 4 + 12)
    assert state.size_bytes > 4 * 65536 + state.touched_bytes - 4 * int(state.n_touched.sum())


def test_of_very_many_locations_a_few_cost_little(generator, tmp_path):
    """Of 2⁴⁰ locations, ten in each of four heads; a saved key takes 8 bytes then."""
    state = MemoryState(2, 2, 2**40, 8, 1)
    assert state.size_bytes < 500
    at = torch.randint(2**40, (4, 10, 1), generator=generator)
    at[:, 0] = 2**40 - 1
    state.touch(at, torch.ones_like(at, dtype=torch.bool))
    state.contents.normal_(generator=generator)
    assert state.n_touched.tolist() == [[10, 10], [10, 10]]
    assert state.touched_bytes == 40 * (9 * 4 + 16)
    assert state.size_bytes < 2 * state.touched_bytes + 500
    assert state.fullness.max() == pytest.approx(10 / 2**40)
    state.save(tmp_path / "state")
    again = MemoryState.load(tmp_path / "state")
    assert again.locations(1, 1).tolist() == sorted(at[3, :, 0].tolist())
    is_same(again, state)
    state.clear()
    assert state.size_bytes < 2 * 40 * (9 * 4 + 16) + 500
    assert not state.n_touched.any()
    assert (state.rows(at) == -1).all()


@pytest.mark.parametrize("form", ["vast", "vast delta"])
def test_a_vast_table_grows_token_by_token(form, generator):
    layer, x = make(**FORMS[form]), repeating(generator, 90, 60)
    state, whole, rooms = layer.new_cache(3), layer(x), set()
    assert (whole.output != 0).any(-1).double().mean() > 0.3
    for t in range(90):
        found = layer(x[:, t : t + 1], state)
        torch.testing.assert_close(found.output, whole.output[:, t : t + 1])
        rooms.add((state.room, state.index.shape[1]))
    assert len(rooms) > 4
    assert all(n_slots == 2 * room for room, n_slots in rooms)
    locations, _, _ = layer.decoder.nearest(layer.address(x))
    for b, h in itertools.product(range(3), range(2)):
        expected = locations[b, :-1, h].unique()  # a token writes where the one before it points
        assert torch.equal(state.locations(b, h), expected)
        assert state.n_touched[b, h] == len(expected) > 50


def test_an_index_becomes_direct_as_a_table_fills(generator, monkeypatch):
    monkeypatch.setattr(hashing, "_SMALL", 0)
    layer, free = make(), make()
    state, x = layer.new_cache(3), tokens(generator, 20)
    kinds = []
    for t in range(20):
        layer(x[:, t : t + 1], state)
        kinds.append(state.index.shape[1])
    assert kinds[0] < 25 == kinds[-1]
    is_close(state, written(free, x))


@pytest.mark.parametrize("form", ["vast", "vast delta"])
def test_gradients_go_through_a_vast_state(form, generator):
    layer, x = make(**FORMS[form]).requires_grad_(), repeating(generator, 11, 5).requires_grad_()
    leaves, state = [x, *layer.parameters()], layer.new_cache(3)
    parts = [layer(part, state).output for part in x.split([1, 4, 6], 1)]
    whole = layer(x).output
    weights = torch.randn(whole.shape, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    found, expected = (
        torch.autograd.grad((out * weights).sum(), leaves, allow_unused=True)
        for out in (torch.cat(parts, 1), whole)
    )
    torch.testing.assert_close(found, expected)
    assert expected[0].abs().max() > 0


@pytest.mark.parametrize("gradients", [False, True], ids=["in place", "with gradients"])
def test_a_bounded_vast_state_goes_on(gradients, generator):
    """What is kept is found again after each forgetting, in the loops and in torch alike."""
    layer = make(**FORMS["vast bounded"]).requires_grad_(gradients)
    x = repeating(generator, 40, 9)
    state = layer.new_cache(3)
    for t in range(0, 40, 2):
        layer(x[:, t : t + 2], state)
        state.detach()
        assert state.n_touched.max() <= 7
        for b, h in itertools.product(range(3), range(2)):
            keys = state.locations(b, h)
            sought = torch.zeros(6, len(keys), dtype=torch.int64)
            sought[2 * b + h] = keys
            rows = state.rows(sought)[2 * b + h]
            assert torch.equal(state.keys[2 * b + h, rows], keys)
            assert torch.equal(state.evidence[2 * b + h, rows], state.table(b, h)[1])
            assert (state.table(b, h)[1] > 0).all()
        assert ((state.index >= 0).sum(1) == state.used).all()


def refuses(path, message):
    with pytest.raises(StoreError, match=message):
        MemoryState.load(path)


def test_missing_and_foreign_files_are_named(tmp_path):
    refuses(tmp_path / "none", "cannot read .*none: there is no such file$")
    refuses(tmp_path, "cannot read .*: it is a directory$")
    path = tmp_path / "text"
    path.write_text("nothing of the kind" * 100)
    refuses(path, "cannot read .*text: it is damaged, or not a pentti file$")
    safetensors.torch.save_file({"x": torch.zeros(3)}, path)
    refuses(path, "it holds something foreign, a pentti sequence memory is expected$")
    persistence.save_tensors(path, "memory", {}, {"x": torch.zeros(3)})
    refuses(path, "it holds a pentti memory, a pentti sequence memory is expected$")


def test_a_damaged_file_is_told(state, tmp_path):
    path = tmp_path / "state"
    state.save(path)
    whole = path.read_bytes()
    for end in (1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        refuses(path, "cannot read .*: it is damaged")
    for place in range(8, len(whole), len(whole) // 37):
        broken = bytearray(whole)
        broken[place] ^= 4
        path.write_bytes(bytes(broken))
        refuses(path, "cannot read .*")
    path.write_bytes(whole)
    is_same(MemoryState.load(path), state)


@pytest.mark.parametrize(
    "change",
    [
        lambda config, _: config.update(n_heads=3),
        lambda config, _: config.update(n_locations=3),
        lambda config, _: config.update(width=5),
        lambda config, _: config.update(top_k=1),
        lambda config, _: config.update(colour="red"),
        lambda config, _: config.pop("width"),
        lambda _, tensors: tensors.pop("keys"),
        lambda _, tensors: tensors.update(keys=tensors["keys"][:-1]),
        lambda _, tensors: tensors.update(contents=tensors["contents"][:, :2]),
        lambda _, tensors: tensors.update(contents=tensors["contents"].half()),
        lambda _, tensors: tensors.update(used=tensors["used"] + 100),
        lambda _, tensors: tensors.update(keys=tensors["keys"] + 25),
        lambda _, tensors: tensors.update(keys=tensors["keys"] - 1000),
        lambda _, tensors: tensors.update(keys=tensors["keys"].long()),
        lambda _, tensors: tensors["keys"][:2].fill_(7),
        lambda _, tensors: tensors["used"].sub_(1),
        lambda _, tensors: tensors["used"][:2].add_(torch.tensor([1, -1])),
        lambda _, tensors: tensors["used"][:2].add_(torch.tensor([2**62, -(2**62)])),
        lambda _, tensors: tensors.update(used=tensors["used"][:-1]),
        lambda _, tensors: tensors.update(stamps=tensors["stamps"][:1]),
        lambda _, tensors: tensors.update(evidence=tensors["evidence"].float()),
        lambda _, tensors: tensors["last_locations"][0, 0].fill_(25),
        lambda _, tensors: tensors["last_locations"][0, 0].fill_(-1),
    ],
)
def test_settings_that_do_not_fit_the_tensors_are_refused(change, generator, tmp_path):
    path = tmp_path / "state"
    written(make(), tokens(generator)).save(path)
    config, tensors = persistence.load_tensors(path, "sequence memory")
    assert tensors["keys"].dtype == torch.int32
    change(config, tensors)
    persistence.save_tensors(path, "sequence memory", config, tensors)
    refuses(path, "cannot read .*: it is damaged, or not a pentti file")


def test_a_full_disk_leaves_the_old_file(state, tmp_path, monkeypatch):
    path = tmp_path / "state"
    state.save(path)
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    state.clear()
    with pytest.raises(StoreError, match=r"cannot write .*: No space left on device; what was"):
        state.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


KILLED_SAVE = """
import os, signal, sys
import torch
from pentti import files
from pentti.nn import MemoryState
state = MemoryState.load(sys.argv[1])
state.clear()
files.os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
state.save(sys.argv[1])
"""


def test_a_crash_while_it_is_saved_leaves_the_old_file(generator, tmp_path):
    path, state = tmp_path / "state", written(make(), tokens(generator))
    state.save(path)
    command = [sys.executable, "-c", KILLED_SAVE, str(path)]
    assert subprocess.run(command, check=False).returncode == -9
    is_same(MemoryState.load(path), state)


def test_repr_says_how_full_it_is(generator):
    state = written(make(), tokens(generator))
    n = int(state.n_touched.sum())
    assert repr(state) == f"MemoryState(batch=3, n_heads=2, n_locations=25, n_touched={n})"
    assert 0 < n < 150


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": -1}, "MemoryState: `batch` must be at least 0, got -1"),
        ({"n_heads": 0}, "`n_heads` must be at least 1, got 0"),
        ({"n_locations": 0}, r"`n_locations` must be in \[1, 1099511627776\], got 0"),
        ({"n_locations": 2**40 + 1}, r"must be in \[1, 1099511627776\], got 1099511627777"),
        ({"batch": 2**22, "n_locations": 2**40}, r"`batch` must be in \[0, 4194303\], got 4194304"),
        ({"width": 0}, "`width` must be at least 1, got 0"),
        ({"top_k": 26}, r"`top_k` must be in \[1, 25\], got 26"),
        ({"max_locations": 1}, "`max_locations` must be at least 2, got 1"),
        ({"forget": "all"}, "`forget` must be one of 'oldest', 'least', got 'all'"),
        ({"dtype": torch.int8}, r"`dtype` must be torch.float32 or torch.float64, got torch.int8"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ArgumentError, match=message):
        MemoryState(**{"batch": 3, **SETTINGS, **settings})


def test_bad_arguments_are_named():
    state = MemoryState(3, **SETTINGS)
    small, other = MemoryState(2, **SETTINGS), MemoryState(3, **SETTINGS | {"width": 4})
    wide, far = (MemoryState(3, **SETTINGS, **more) for more in ({"dtype": torch.double},
                                                                 {"device": "meta"}))  # fmt: skip
    for call, message in (
        (lambda: state.locations(3, 0), "MemoryState.locations: `sequence` must be in [0, 2], go"),
        (lambda: state.table(0, 2), "MemoryState.table: `head` must be in [0, 1], got 2"),
        (lambda: state.clear(-1), "MemoryState.clear: `sequence` must be in [0, 2], got -1"),
        (lambda: state.select([0, 3]), "MemoryState.select: `sequences` must be in [0, 2], got 3"),
        (lambda: state.select([0.5]), "`sequences` must be an integer in [0, 2], got 0.5"),
        (lambda: state.select(torch.tensor([True])), "must be an integer in [0, 2], got True"),
        (lambda: state.select(1), "`sequences` must be a list of integers, got 1"),
        (lambda: MemoryState.stack([]), "MemoryState.stack: `states` must hold one state at least"),
        (lambda: MemoryState.stack([3]), "MemoryState.stack: `states` must be a MemoryState, go"),
        (lambda: MemoryState.stack([state, other]), "`states` must have width = 3, got 4"),
        (lambda: state.merge(3), "MemoryState.merge: `other` must be a MemoryState, got 3"),
        (lambda: state.merge(small), "MemoryState.merge: `other` must have a batch of 3, got 2"),
        (lambda: state.merge(other), "MemoryState.merge: `other` must have width = 3, got 4"),
        (lambda: state.merge(wide), "`other` must have dtype = torch.float32, got torch.float64"),
        (lambda: state.merge(far), "MemoryState.merge: `other` must have device = cpu, got meta"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=re.escape(message)):
            call()


def test_what_is_merged_counts_as_later(generator):
    layer = SequenceMemory(16, 1, n_locations=128**2, top_k=4, max_locations=400)
    layer.requires_grad_(False)
    old, new, on = layer.new_cache(1), layer.new_cache(1), layer.new_cache(1)
    before, after = (torch.randn(1, n, 16, generator=generator) for n in (500, 20))
    for state, parts in ((old, [before]), (new, [after]), (on, [before, after])):
        for part in parts:
            layer(part, state)
    told = set(new.locations(0, 0).tolist())
    assert told <= set(on.locations(0, 0).tolist())
    assert told <= set(old.merge(new).locations(0, 0).tolist())


def test_a_state_moved_to_where_it_was_shares_nothing(generator, tmp_path):
    layer = SequenceMemory(16, 2, n_locations=64**2, top_k=4).requires_grad_(False)
    first = layer.new_cache(1)
    layer(torch.randn(1, 30, 16, generator=generator), first)
    second, kept = first.to("cpu"), first.clone()
    layer(torch.randn(1, 50, 16, generator=generator), second)
    assert torch.equal(first.n_touched, kept.n_touched)
    x = torch.randn(1, 40, 16, generator=generator)
    assert torch.equal(layer(x, first).output, layer(x, kept).output)
    first.save(tmp_path / "state")
    assert torch.equal(MemoryState.load(tmp_path / "state").n_touched, first.n_touched)

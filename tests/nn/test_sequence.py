"""The sequence memory as a layer: causal, the same in any parts, and what it recalls."""

import copy
import itertools

import pytest
import torch

from pentti.errors import ArgumentError
from pentti.kernels import causal, causal_ops
from pentti.nn import MemoryState, PenttiTransformer, SequenceConfig, SequenceMemory, sequence

FORMS = {
    f"{rule}{'-decay' * decay}{'-gate' * gate}{'-shift' * shift}": {
        "rule": rule, "decay": decay, "write_gate": gate, "shift": shift,
    }
    for rule, decay, gate, shift in itertools.product(sequence.RULES, *[(False, True)] * 3)
}  # fmt: skip
LENGTH = 19
SPLITS = {
    "one by one": [1] * LENGTH,
    "uneven": [1, 10, 0, 2, 1, 5],
    "first empty": [0, 5, 14],
    "at once": [LENGTH],
}


@pytest.fixture(autouse=True)
def one_thread():
    """Sizes here are so small that threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(form="hebbian-shift", **settings):
    torch.manual_seed(5)
    small = {"n_locations": 49, "top_k": 3}
    layer = SequenceMemory(12, 3, **small | FORMS[form] | settings).double()
    if layer.kept is not None:
        with torch.no_grad():
            layer.kept.copy_(torch.tensor([0.0, 2.0, 7.0]))
    if layer.gate is not None:
        torch.nn.init.normal_(layer.gate.weight)
    return layer


@pytest.fixture(params=FORMS)
def layer(request):
    return make(request.param)


def tokens(generator, length=LENGTH, batch=2):
    return torch.randn(batch, length, 12, generator=generator, dtype=torch.float64)


def in_pieces(layer, x, sizes, token_mask=None):
    state = layer.new_cache(len(x))
    masks = [None] * len(sizes) if token_mask is None else token_mask.split(sizes, 1)
    found = [
        layer(piece, state, token_mask=mask)
        for piece, mask in zip(x.split(sizes, 1), masks, strict=True)
    ]
    assert all(part.state is state for part in found)
    return [torch.cat([part[i] for part in found], 1) for i in range(3)], state


def same(found, whole):
    for one, other in zip(found[:3], whole[:3], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def by_definition(layer, x):
    """Output and evidence, by every pair of tokens; without decay, gate or correction."""
    locations, similarity, active = layer.decoder.nearest(layer.address(x))
    weights, _ = layer.weigh(similarity, active, limited=False)
    dense = torch.zeros(*x.shape[:2], layer.n_heads, layer.n_locations, dtype=x.dtype)
    read = dense.scatter_add(-1, locations, weights).transpose(1, 2)
    written = torch.cat([torch.zeros_like(read[:, :, :1]), read[:, :, :-1]], 2)
    overlap = (read @ (written if layer.shift else read).mT).tril()
    values = layer.value(x).unflatten(-1, (layer.n_heads, -1)).transpose(1, 2)
    mass = overlap.sum(-1)
    floor = torch.nn.functional.softplus(layer.floor)[:, None]
    sums = overlap @ values / (mass + floor)[..., None]
    evidence = (mass / weights.square().sum(-1).transpose(1, 2)).mean(1)
    return layer.out(sums.transpose(1, 2).flatten(2)), evidence


@pytest.mark.parametrize("shift", [False, True], ids=["paired", "shifted"])
def test_it_is_its_definition(shift, generator):
    layer = make("hebbian-shift", shift=shift)
    x = tokens(generator)
    found = layer(x)
    output, evidence = by_definition(layer, x)
    torch.testing.assert_close(found.output, output)
    torch.testing.assert_close(found.evidence, evidence)
    assert (found.meter == 9).all()
    assert found.state is None
    assert evidence.max() > 1


def test_the_future_changes_nothing_before_it(layer, generator):
    x = tokens(generator)
    other = torch.cat([x[:, :14], 1e3 * tokens(generator)[:, 14:]], 1)
    one, two = layer.float()(x.float()), layer(other.float())
    for a, b in zip(one[:3], two[:3], strict=True):
        assert torch.equal(a[:, :14], b[:, :14])
    assert not torch.equal(one.output[:, 14:], two.output[:, 14:])
    first = layer(x[:, :14].float())
    torch.testing.assert_close(first.output, one.output[:, :14])


@pytest.mark.parametrize("gradients", [False, True], ids=["in place", "with gradients"])
@pytest.mark.parametrize("split", SPLITS)
def test_any_split_equals_the_whole(layer, split, gradients, generator):
    x = tokens(generator)
    whole = layer(x)
    with torch.set_grad_enabled(gradients):
        found, state = in_pieces(layer, x, SPLITS[split])
    same(found, whole)
    assert found[0].requires_grad is gradients
    assert state.n_tokens.tolist() == [LENGTH] * 2


@pytest.mark.parametrize("gradients", [False, True], ids=["in place", "with gradients"])
@pytest.mark.parametrize("split", ["uneven", "first empty"])
def test_and_with_padding(layer, split, gradients, generator):
    """Left, anywhere, and a whole sequence of it."""
    x, mask = tokens(generator, batch=3), torch.rand(3, LENGTH, generator=generator) < 0.6
    mask[0] = torch.arange(LENGTH) >= 11
    mask[2] = False
    whole = layer(x, token_mask=mask)
    with torch.set_grad_enabled(gradients):
        found, state = in_pieces(layer, x, SPLITS[split], mask)
    same(found, whole)
    for part in found:
        assert not part[~mask].any()
    assert state.n_tokens.tolist() == mask.sum(1).tolist()


def test_padding_changes_nothing(layer, generator):
    x = tokens(generator, batch=3)
    mask = torch.rand(3, LENGTH, generator=generator) < 0.6
    whole = layer(x.masked_fill(~mask[..., None], 1e3), token_mask=mask)
    for row in range(3):
        alone = layer(x[row : row + 1, mask[row]])
        same([part[row : row + 1, mask[row]] for part in whole[:3]], alone)


def test_gradients_go_through_a_state(layer, generator):
    x = tokens(generator).requires_grad_()
    leaves = [x, *layer.parameters()]
    to = tokens(generator)

    def gradients(output, evidence):
        loss = (output * to).sum() + evidence.sum()
        return torch.autograd.grad(loss, leaves)

    whole = gradients(*layer(x)[::2][:2])
    assert all(part.abs().max() > 0 for part in whole)
    for sizes in ([9, 1, 9], [1, 0, 18]):
        (output, _, evidence), _ = in_pieces(layer, x, sizes)
        parts = gradients(output, evidence)
        torch.testing.assert_close(parts, whole, rtol=1e-7, atol=1e-9)


def test_gradients_are_cut_where_a_state_is_detached(generator):
    layer, x = make(), tokens(generator).requires_grad_()
    state = layer.new_cache(2)
    layer(x[:, :9], state)
    assert state.contents.requires_grad
    later = layer(x[:, 9:], state.detach())
    (found,) = torch.autograd.grad(later.output.square().sum(), x)
    assert not found[:, :9].any()
    assert found[:, 9:].any()


def test_a_step_without_gradients_leaves_the_history_as_it_was(generator):
    layer, x = make(), tokens(generator)
    state = layer.new_cache(2)
    output = layer(x[:, :5], state).output + layer(x[:, 5:9], state).output.sum()
    leaves = list(layer.parameters())
    expected = torch.autograd.grad(output.sum(), leaves, retain_graph=True)
    with torch.no_grad():
        found = layer(x[:, 9:], state)
    same([part[:, 9:] for part in layer(x)[:3]], found)
    again = torch.autograd.grad(output.sum(), leaves)
    assert all(torch.equal(one, two) for one, two in zip(again, expected, strict=True))


def test_it_goes_on_from_a_file(layer, generator, tmp_path):
    x = tokens(generator)
    state = layer.new_cache(2)
    layer(x[:, :9], state)
    state.save(tmp_path / "state")
    later = layer(x[:, 9:], MemoryState.load(tmp_path / "state"))
    same(later, [part[:, 9:] for part in layer(x)[:3]])


@pytest.mark.parametrize("place", [0, 4, LENGTH - 1])
def test_nan_stays_in_its_token(layer, place, generator):
    x = tokens(generator)
    x[1, place] = torch.nan
    for found in (layer(x), layer(x, layer.new_cache(2))):
        assert found.output[1, place].isnan().all()
        others = torch.arange(LENGTH) != place
        for part in (found.output, found.evidence):
            assert part[0].isfinite().all()
            assert part[1, others].isfinite().all()
        assert found.meter[1, place] == 0
    assert torch.equal(layer(x).output[0], layer(x.nan_to_num()).output[0])
    state = layer.new_cache(2)
    with torch.no_grad():
        layer(x, state)
    assert state.contents.isfinite().all()
    assert state.evidence.isfinite().all()


@pytest.mark.parametrize("length", [0, 1])
def test_short_sequences(layer, length, generator):
    x, mask = tokens(generator, length), torch.ones(2, length, dtype=torch.bool)
    for found in (layer(x), layer(x, layer.new_cache(2)), layer(x, token_mask=mask)):
        assert found.output.shape == x.shape
        assert found.evidence.shape == found.meter.shape == (2, length)
        # what the first reads: nothing, or itself
        assert bool(found.output.any()) is (length == 1 and not layer.shift)
    none = layer(x[:0], layer.new_cache(0))
    assert none.output.shape == (0, length, 12)
    none.output.sum().backward()
    assert not layer.value.weight.grad.any()


def test_decay_fades_what_was_written(generator):
    layer = make("hebbian-decay", n_locations=1, top_k=1)
    with torch.no_grad():
        layer.kept.fill_(0.0)  # half-way from 0.9 to 1
    evidence = layer(tokens(generator)).evidence
    expected = (1 - 0.95 ** torch.arange(1, LENGTH + 1, dtype=torch.float64)) / 0.05
    torch.testing.assert_close(evidence, expected.expand(2, -1))


@pytest.mark.parametrize("rule", sequence.RULES)
def test_fast_decay_over_a_long_sequence_stays_in_range(rule, generator):
    layer = make(f"{rule}-decay-shift").float()
    with torch.no_grad():
        layer.kept.fill_(-30.0)  # a tenth goes with each token
    x = torch.randn(2, 300, 12, generator=generator)
    exact, whole = copy.deepcopy(layer).double()(x.double()), layer(x)
    found, state = in_pieces(layer, x, [100, 1, 199])
    for part in (whole.output, found[0]):
        torch.testing.assert_close(part.double(), exact.output, rtol=1e-3, atol=1e-4)
    assert state.scale.min() >= -80
    assert state.contents.abs().max() < 1e37


def test_a_gate_that_is_shut_writes_nothing(generator):
    for rule in sequence.RULES:
        layer, x = make(f"{rule}-gate-shift"), tokens(generator)
        with torch.no_grad():
            layer.gate.weight.zero_()
            layer.gate.bias.fill_(-1e3)
        assert layer(x).output.abs().max() < 1e-12
        layer.gate.bias.data.fill_(1e3)
        layer.gate.weight.data.zero_()
        open_ = make(f"{rule}-shift")
        open_.load_state_dict({k: v for k, v in layer.state_dict().items() if "gate" not in k})
        torch.testing.assert_close(layer(x).output, open_(x).output)


@pytest.mark.parametrize("rule", sequence.RULES)
def test_it_gives_what_followed(rule):
    """Tokens that are all different, and then the same again: each recalls its follower."""
    n, width = 64, 32
    torch.manual_seed(1)
    layer = SequenceMemory(width, 1, n_locations=4096, top_k=4, rule=rule).requires_grad_(False)
    for part in (layer.address, layer.value, layer.out):
        part.weight.copy_(torch.eye(width))
    layer.weigh.log_beta += 1
    if layer.floor is not None:
        layer.floor.fill_(-9.0)
    first, new = torch.randn(n, width), torch.randn(n, width)
    found = layer(torch.cat([first, first, new])[None])
    again, unseen = found.evidence[0, n : 2 * n - 1], found.evidence[0, 2 * n :]
    nearest = torch.cdist(found.output[0, n : 2 * n - 1], first).argmin(1)
    assert (nearest == torch.arange(1, n)).float().mean() >= 0.95
    assert again.min() > 0.9
    assert unseen.median() < 0.3 < 3 * again.median()


def test_one_token_at_a_time_needs_no_more_memory(generator):
    layer = make(n_locations=16, top_k=2).requires_grad_(False)
    state = layer.new_cache(1)
    layer(tokens(generator, 300, 1), state)
    assert (state.n_touched == 16).all()
    size, place = state.size_bytes, state.contents.data_ptr()
    expected = state.evidence.sum()
    for token in tokens(generator, 40, 1).split(1, 1):
        layer(token, state)
        assert (state.size_bytes, state.contents.data_ptr()) == (size, place)
    assert state.evidence.sum() > expected + 40


@pytest.mark.parametrize("forget", ["oldest", "least"])
@pytest.mark.parametrize("gradients", [False, True], ids=["in place", "with gradients"])
def test_a_bound_holds_after_every_call(forget, gradients, generator):
    layer = make(max_locations=8, forget=forget)
    state = layer.new_cache(2)
    with torch.set_grad_enabled(gradients):
        for piece in tokens(generator).split([1, 1, 5, 0, 12], 1):
            assert layer(piece, state).output.isfinite().all()
            assert state.n_touched.max() <= 8
    assert state.n_touched.min() >= 7
    for b, h in itertools.product(range(2), range(3)):
        assert (state.table(b, h)[1] > 0).all()


def test_gradients_go_through_what_was_not_forgotten(generator):
    x = tokens(generator, batch=1).requires_grad_()
    free, bounded = make(), make(max_locations=16)
    states = [layer.new_cache(1) for layer in (free, bounded)]
    for layer, state in zip((free, bounded), states, strict=True):
        layer(x, state)
    kept = [states[1].locations(0, h) for h in range(3)]
    assert sum(len(k) for k in kept) < int(states[0].used.sum())
    slopes = []
    for state in states:
        loss = 0
        for h in range(3):
            at = torch.isin(state.locations(0, h), kept[h])
            contents, evidence = state.table(0, h)
            loss = loss + contents[at].square().sum() + evidence[at].square().sum()
        slopes.append(torch.autograd.grad(loss, x)[0])
    assert slopes[0].abs().max() > 0
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("form", ["hebbian-shift", "hebbian-decay", "delta-decay-gate-shift"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(form, dtype, generator):
    layer, x = make(form, n_locations=1, top_k=1).float(), tokens(generator).float()
    exact = layer(x)
    half = copy.deepcopy(layer).to(dtype)
    for found in (half(x.to(dtype)), half(x.to(dtype), half.new_cache(2))):
        assert found.output.dtype == dtype
        assert found.evidence.dtype == torch.float32
        assert (found.output.float() - exact.output).norm() < 0.02 * exact.output.norm()
    with torch.autocast("cpu", dtype=dtype):
        found = layer(x)
        later = layer(x, layer.new_cache(2))
    torch.testing.assert_close(later.output, found.output)
    assert found.output.dtype == dtype
    assert (found.output.float() - exact.output).norm() < 0.02 * exact.output.norm()
    found.output.float().square().sum().backward()
    assert layer.value.weight.grad.abs().max() > 0


@pytest.mark.parametrize("form", ["hebbian-gate-shift", "delta"])
def test_compiled_equals_eager(form, generator, compiler):
    layer, x = make(form), tokens(generator)
    results = []
    for run in (layer, compiler(layer, fullgraph=True, backend="aot_eager")):
        layer.zero_grad()
        output, meter, evidence, _ = run(x)
        (output.square().sum() + evidence.sum()).backward()
        gradients = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
        results.append([output.detach(), meter, evidence.detach(), *gradients])
    assert len(results[0]) > 7
    torch.testing.assert_close(*results)


def test_compiled_with_decay_equals_eager(generator, compiler):
    """How often it starts anew depends on what it has learned: the graph may break there."""
    layer, x = make("hebbian-decay-shift"), tokens(generator)
    compiled = compiler(layer, backend="aot_eager")
    same(compiled(x), layer(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit")  # torch's compiler warns of torch
def test_compiled_by_inductor_equals_eager(generator, compiler):
    layer = SequenceMemory(64, 2, n_locations=1024)
    x = torch.randn(2, 65, 64, generator=generator)
    compiled = compiler(layer, fullgraph=True)
    torch.testing.assert_close(compiled(x).output, layer(x).output)
    compiled(x).output.sum().backward()
    found = layer.value.weight.grad.clone()
    layer.zero_grad()
    layer(x).output.sum().backward()
    torch.testing.assert_close(found, layer.value.weight.grad)


def test_a_state_dict_comes_back(layer, generator):
    twin = make(n_locations=49, **{k: getattr(layer, k) for k in ("rule", "shift")},
                decay=layer.kept is not None, write_gate=layer.gate is not None)  # fmt: skip
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    x = tokens(generator)
    assert not torch.equal(twin(x).output, layer(x).output)
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin(x).output, layer(x).output)


def test_the_state_is_stable():
    names = ["address.weight", "decoder.codebooks", "floor", "gate.bias", "gate.weight", "kept"]
    names += ["out.weight", "value.weight", "weigh.log_beta"]
    assert sorted(make("hebbian-decay-gate-shift").state_dict()) == names


def test_there_is_room_for_the_longest_context():
    layer = SequenceMemory(16, 2, max_length=1000, top_k=8)
    assert layer.n_locations == 90**2  # the first square from 8,000
    assert SequenceMemory(16, 2, max_length=1, top_k=1).n_locations == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "SequenceMemory: `dim` must be at least 1, got 0"),
        ({"dim": 15}, "`dim` must be a multiple of `n_heads`, got 15 with 2 heads"),
        ({"n_heads": 0}, "`n_heads` must be at least 1, got 0"),
        ({"top_k": 17}, r"SequenceMemory: `top_k` must be in \[1, 16\], got 17"),
        ({"seed": -1}, "SequenceMemory: `seed` must be in"),
        ({"precise": 1.5}, "`precise` must be one of False, True, got 1.5"),
        (
            {"n_locations": None, "max_length": 2**39},
            r"`max_length` must be in \[1, 274877906944\]",
        ),
        ({"n_locations": 17}, "SequenceMemory: `n_locations` must be a square, such as 16 = 4² or"),
        ({"max_length": 0}, "`max_length` must be at least 1, got 0"),
        ({"address_dim": 3}, "SequenceMemory: `address_dim` must be at least 4, got 3"),
        ({"address_dim": 5}, "SequenceMemory: `address_dim` must be a multiple of the 2 codebooks"),
        ({"rule": "hebb"}, "SequenceMemory: `rule` must be one of 'hebbian', 'delta', got 'hebb'"),
        ({"shift": "no"}, "`shift` must be one of False, True, got 'no'"),
        ({"decay": "no"}, "`decay` must be one of False, True, got 'no'"),
        ({"write_gate": "no"}, "`write_gate` must be one of False, True, got 'no'"),
        ({"max_locations": 1}, "`max_locations` must be at least 2, got 1"),
        ({"forget": "new"}, "`forget` must be one of 'oldest', 'least', got 'new'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ArgumentError, match=message):
        SequenceMemory(**{"dim": 16, "n_heads": 2, "n_locations": 16, "top_k": 2, **settings})


def test_bad_tokens_are_named():
    layer, x = make().float(), torch.zeros(2, 5, 12)
    for bad, message in (
        (x[..., :11], r"SequenceMemory: `x_BLD` must have shape \(…, 12\), got shape \(2, 5, 11\)"),
        (x[0], r"`x_BLD` must have shape \(batch, length, dim\), got shape \(5, 12\)"),
        (x.long(), r"`x_BLD` must be a floating tensor, got torch\.int64"),
        (x.double(), r"`x_BLD` must be torch\.float32 like the layer, or under autocast, got .*64"),
        (x.to("meta"), "`x_BLD` must be on cpu, got meta"),
        (3, "`x_BLD` must be a floating tensor, got 3"),
    ):
        with pytest.raises(ArgumentError, match=message):
            layer(bad)
    for bad, message in (
        (torch.ones(2, 4).bool(), r"`token_mask` must have the shape \(2, 5\) of the tokens, got"),
        (torch.ones(2, 5), "`token_mask` must be a bool tensor, got a torch.float32 tensor"),
        (torch.ones(2, 5, device="meta").bool(), "`token_mask` must be on cpu, got meta"),
    ):
        with pytest.raises(ArgumentError, match=message):
            layer(x, token_mask=bad)


def test_a_state_that_does_not_fit_is_named():
    layer, x = make().float(), torch.zeros(2, 5, 12)
    other = {
        "n_heads = 3, got 2": MemoryState(2, 2, 49, 4, 3),
        "n_locations = 49, got 64": MemoryState(2, 3, 64, 4, 3),
        "width = 4, got 5": MemoryState(2, 3, 49, 5, 3),
        "top_k = 3, got 2": MemoryState(2, 3, 49, 4, 2),
        "dtype = torch.float32, got torch.float64": MemoryState(2, 3, 49, 4, 3, dtype=torch.double),
        "device = cpu, got meta": MemoryState(2, 3, 49, 4, 3, device="meta"),
    }  # fmt: skip
    for message, state in other.items():
        with pytest.raises(ArgumentError, match=f"SequenceMemory: `cache` must have {message}"):
            layer(x, state)
    fading = make("hebbian-decay").float().new_cache(2)
    with pytest.raises(
        ArgumentError, match=r"`cache` must have writer = 2 codebooks .*, got .*decay"
    ):
        layer(x, fading)
    with pytest.raises(ArgumentError, match="`cache` must be of 2 sequences, got one of 3"):
        layer(x, layer.new_cache(3))
    with pytest.raises(ArgumentError, match="`cache` must be a MemoryState, got 'state'"):
        layer(x, "state")
    state = layer.new_cache(2)
    with pytest.raises(ArgumentError, match="`x_BLD` must have"):
        layer(x[..., :3], state)
    assert state.n_tokens.tolist() == [0, 0]


def test_arguments_are_left_as_they_were(layer, generator):
    x, mask = tokens(generator), torch.rand(2, LENGTH, generator=generator) < 0.6
    before = x.clone(), mask.clone()
    state = layer.new_cache(2)
    layer(x, state, token_mask=mask)
    kept = state.clone()
    layer(x, state.clone(), token_mask=mask)
    assert torch.equal(x, before[0])
    assert torch.equal(mask, before[1])
    assert torch.equal(state.contents, kept.contents)
    assert torch.equal(state.keys, kept.keys)
    assert torch.equal(state.index, kept.index)


def test_a_long_text_without_gradients_goes_in_parts(generator, monkeypatch):
    layer, x = make("hebbian-shift"), tokens(generator)
    whole = layer(x)
    mask = torch.rand(x.shape[:2], generator=generator) > 0.3
    masked = layer(x, token_mask=mask)
    monkeypatch.setattr(sequence, "_PART", 7)
    with torch.no_grad():
        parts, masked_parts = layer(x), layer(x, token_mask=mask)
        state = layer.new_cache(len(x))
        continued = layer(x, state)
    assert continued.state is state
    assert parts.state is None
    for found, right in ((parts, whole), (continued, whole), (masked_parts, masked)):
        for one, other in zip(found[:3], right[:3], strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("rule", ["hebbian", "delta"])
@pytest.mark.parametrize(("n_codebooks", "n"), [(2, 7), (4, 3), (4, 64), (8, 16)])
def test_any_number_of_codebooks_streams_as_it_reads_at_once(n_codebooks, n, rule, generator):
    n_locations = n**n_codebooks
    layer = SequenceMemory(
        64, 2, n_locations=n_locations, n_codebooks=n_codebooks, top_k=4, rule=rule
    ).requires_grad_(False)
    assert layer.decoder.codebooks.shape == (n_codebooks, 2, n, 32 // n_codebooks)
    x = torch.randn(2, 40, 64, generator=generator)
    x[:, 20:] = x[:, :20]
    whole, state = layer(x), layer.new_cache(2)
    parts = [layer(part, state) for part in x.split([1, 17, 0, 21, 1], dim=1)]
    for name in ("output", "evidence", "meter"):
        joined = torch.cat([getattr(part, name) for part in parts], 1)
        torch.testing.assert_close(joined, getattr(whole, name), rtol=0, atol=1e-5)
    assert int(state.n_touched.max()) <= min(n_locations, 160)
    assert "n_codebooks" in repr(layer)


def test_a_model_keeps_its_number_of_codebooks(tmp_path, generator):
    model = PenttiTransformer(
        32, 32, 2, 2, memory_kind="sequence", sequence={"n_codebooks": 4, "n_locations": 64**4}
    )
    model.save_pretrained(tmp_path)
    again = PenttiTransformer.from_pretrained(tmp_path)
    for one in (model, again):
        memories = [m for m in one.modules() if isinstance(m, SequenceMemory)]
        assert memories
        assert all(m.decoder.n_codebooks == 4 for m in memories)
        assert all(m.n_locations == 64**4 for m in memories)
    ids = torch.randint(32, (1, 9), generator=generator)
    assert torch.equal(model(ids).logits, again(ids).logits)
    one, other = (m.generate(ids[0].tolist(), 3, temperature=0) for m in (model, again))
    assert len(one) > 0
    assert torch.equal(one, other)


def test_what_is_no_token_spoils_no_gradient(generator):
    layer = SequenceMemory(16, 2, n_locations=49, top_k=3)
    x = torch.randn(1, 9, 16, generator=generator)
    x[0, 7:] = torch.nan
    mask = torch.arange(9)[None] < 7
    layer(x, token_mask=mask).output.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    assert layer.value.weight.grad.abs().max() > 0


def test_without_a_state_a_bound_forgets_nothing(generator, monkeypatch):
    monkeypatch.setattr(sequence, "_PART", 16)
    layer = SequenceMemory(16, 1, n_locations=49, top_k=2, max_locations=4)
    x = torch.randn(1, 50, 16, generator=generator)
    with torch.no_grad():
        parts = layer(x).output
    torch.testing.assert_close(parts, layer(x).output.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_locations", [49, 2**44])
def test_locations_must_fit_the_codebooks_and_the_table(n_locations):
    with pytest.raises(ArgumentError, match="n_locations"):
        SequenceMemory(64, 2, n_codebooks=4, n_locations=n_locations)
    with pytest.raises(ArgumentError, match="SequenceConfig: `n_locations`"):
        SequenceConfig(n_codebooks=4, n_locations=n_locations)


@pytest.mark.parametrize("other", [{"n_codebooks": 4}, {"shift": False}, {"rule": "delta"}])
def test_the_state_of_a_layer_that_writes_otherwise_is_refused(other, generator):
    layer = SequenceMemory(64, 2, n_locations=6**4)
    state = SequenceMemory(64, 2, n_locations=6**4, **other).new_cache(1)
    with pytest.raises(ArgumentError, match="writer"):
        layer(torch.randn(1, 3, 64, generator=generator), state)


def test_a_decay_that_is_no_number_gives_no_number(generator):
    layer = SequenceMemory(16, 2, n_locations=49, top_k=3, decay=True)
    layer.kept.data.fill_(torch.nan)
    x = torch.randn(1, 1, 16, generator=generator).expand(1, 5, 16)
    assert layer(x).output[:, 1:].isnan().all()  # what is found has faded to no number


def test_another_device_gives_the_same(generator, monkeypatch):
    """What runs where there is no compiled kernel: the parallel form, inside the operator."""
    layer, x = make(), tokens(generator).requires_grad_()
    expected = layer(x)
    to = torch.randn(expected.output.shape, generator=generator, dtype=torch.float64)
    wanted = torch.autograd.grad(expected.output, [x, *layer.parameters()], to)
    monkeypatch.setattr(causal_ops, "_visit", lambda given, _: causal.scan(given))
    found = layer(x)
    torch.testing.assert_close(found.output, expected.output)
    torch.testing.assert_close(found.evidence, expected.evidence)
    torch.testing.assert_close(
        torch.autograd.grad(found.output, [x, *layer.parameters()], to), wanted
    )


def test_precise_sums_lose_nothing_where_the_same_is_written_again_and_again():
    """Prediction: roundings of 300,000 equal writes add up to more than 1e-4, unless precise."""
    n, errors = 300_000, []
    for precise in (False, True):
        layer = SequenceMemory(4, 1, n_locations=4, top_k=2, precise=precise, seed=3)
        exact = copy.deepcopy(layer).double()
        x = torch.tensor([0.3, -0.7, 0.2, 1.1]).expand(1, n, 4)
        with torch.no_grad():
            found, right = layer(x), exact(x.double())
        assert found.evidence.dtype == found.output.dtype == torch.float32
        errors.append(
            ((found.evidence - right.evidence).abs() / right.evidence)[0, 1:].max().item()
        )
    assert errors[0] > 1e-4
    assert errors[1] < 1e-6


def test_the_bound_is_the_layers_own(generator):
    """A state that grew without a bound gets one, and gives back what it no longer needs."""
    free, bounded = (make(max_locations=most).float() for most in (None, 5))
    state = free.new_cache(2)
    with torch.no_grad():
        free(tokens(generator).float(), state)
        held, size = state.n_touched, state.size_bytes
        bounded(tokens(generator).float()[:, :1], state)
    assert held.min() > 5 >= state.n_touched.max()
    assert state.size_bytes < size
    state.clear()
    assert state.room == 0
    assert not state.n_touched.any()


def test_a_narrow_head_has_an_address_that_its_codebooks_can_part():
    layer = SequenceMemory(8, 4, n_locations=16, n_codebooks=4, top_k=2)
    assert layer.decoder.dim == 4 * 8
    assert SequenceMemory(12, 1, n_locations=16, top_k=2).decoder.dim == 12


def test_a_second_derivative_is_refused(generator):
    layer, x = make(), tokens(generator).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x).output.square().sum(), x, create_graph=True)
    with pytest.raises(ArgumentError, match="`values` must be differentiated once, got a second"):
        gradient.square().sum().backward()

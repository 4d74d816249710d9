"""How the layer learns: annealing, parameter groups and the row-wise optimiser."""

import copy

import pytest
import torch

from pentti import nn
from pentti.decoders import ProductKeys
from pentti.errors import ArgumentError


def test_annealing_ends_at_the_layers_own_top_k():
    layer = nn.SDMLayer(24, n_locations=49, n_heads=2, top_k=3)
    anneal = nn.AnnealedTopK(layer, start=43, n_steps=8)
    assert layer(torch.ones(24)).meter == 2 * 43
    assert [anneal.step() for _ in range(9)] == [38, 33, 28, 23, 18, 13, 8, 3, 3]
    assert layer(torch.ones(24)).meter == 2 * 3
    for start, n_steps, message in (
        (2, 1, r"`start` must be in \[3, 49\], got 2"),
        (50, 1, r"`start` must be in \[3, 49\], got 50"),
        (9, 0, "`n_steps` must be at least 1, got 0"),
    ):
        with pytest.raises(ArgumentError, match=message):
            nn.AnnealedTopK(layer, start=start, n_steps=n_steps)
    with pytest.raises(ArgumentError, match="AnnealedTopK: `layer` must be an SDMLayer, got 3"):
        nn.AnnealedTopK(3, start=1, n_steps=1)


def test_annealing_goes_on_after_a_restart():
    layers = [nn.SDMLayer(24, n_locations=49, n_heads=2, top_k=3) for _ in range(2)]
    first, second = (nn.AnnealedTopK(layer, start=43, n_steps=8) for layer in layers)
    for _ in range(5):
        first.step()
    second.n_done = first.n_done
    assert second.step() == first.step() == 13


def test_contents_learn_at_their_own_rate():
    model = torch.nn.ModuleList([nn.SDMLayer(24, n_locations=49, n_heads=2) for _ in range(2)])
    rest, contents = nn.parameter_groups(model, lr=0.1, memory_lr=0.5, weight_decay=0.01)
    assert [one.shape for one in contents["params"]] == [(49, 24)] * 2
    assert len(rest["params"]) == 6
    assert (rest["lr"], contents["lr"]) == (0.1, 0.5)
    assert (rest["weight_decay"], contents["weight_decay"]) == (0.01, 0)
    with pytest.raises(ArgumentError, match=r"`memory_lr` must be at least 0\.0, got -1"):
        nn.parameter_groups(model, lr=0.1, memory_lr=-1)
    with pytest.raises(ArgumentError, match="`module` must be a torch module, got 3"):
        nn.parameter_groups(3, lr=0.1, memory_lr=1)
    model[1].contents = model[0].contents
    rest, contents = nn.parameter_groups(model, lr=0.1, memory_lr=0.5)
    assert [id(one) for one in contents["params"]] == [id(model[0].contents)]


def test_rowwise_adagrad_is_adagrad_with_one_sum_a_row(generator):
    start = torch.randn((17, 5), generator=generator)
    dense, sparse, mixed = (torch.nn.Parameter(start.clone()) for _ in range(3))
    optimisers = [nn.RowwiseAdagrad([one], lr=0.3) for one in (dense, sparse, mixed)]
    expected, sums = start.clone(), torch.zeros(17)
    for _ in range(4):
        gradient = torch.zeros(17, 5)
        rows = torch.randperm(17, generator=generator)[:6]
        gradient[rows] = torch.randn((6, 5), generator=generator)
        dense.grad = gradient
        sparse.grad = gradient.to_sparse(1)
        halves = torch.cat([rows, rows])[None], torch.cat([gradient[rows] / 2] * 2)
        # In no order, and each row twice.
        mixed.grad = torch.sparse_coo_tensor(*halves, (17, 5), check_invariants=True)
        sums += gradient.square().mean(1)
        expected -= 0.3 * gradient / (sums.sqrt() + 1e-10)[:, None]
        for optimiser in optimisers:
            optimiser.step()
    for found in (dense, sparse, mixed):
        torch.testing.assert_close(found.detach(), expected)
    again = nn.RowwiseAdagrad([sparse], lr=0.1)
    again.load_state_dict(optimisers[1].state_dict())
    torch.testing.assert_close(again.state[sparse]["sums"], sums)
    again.step()
    torch.testing.assert_close(optimisers[1].state[sparse]["sums"], sums)  # has its own


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rowwise_adagrad_goes_on_from_its_state_as_if_never_stopped(dtype, generator):
    tables = [torch.nn.Parameter(torch.ones(17, 5, dtype=dtype)) for _ in range(2)]
    optimisers = [nn.RowwiseAdagrad([one], lr=0.3) for one in tables]
    for step in range(6):
        gradient = torch.randn((17, 5), generator=generator).to(dtype)
        for table, optimiser in zip(tables, optimisers, strict=True):
            table.grad = gradient.clone()
            optimiser.step()
        if step == 2:
            optimisers[1] = nn.RowwiseAdagrad([tables[1]], lr=0.7)
            optimisers[1].load_state_dict(copy.deepcopy(optimisers[0].state_dict()))
    sums = [one.state[table]["sums"] for one, table in zip(optimisers, tables, strict=True)]
    assert sums[1].dtype == torch.float32
    assert torch.equal(*sums)
    assert torch.equal(*tables)
    assert not torch.equal(tables[0], torch.ones_like(tables[0]))


def test_rowwise_adagrad_takes_tables_and_gradients_as_they_lie(generator):
    start, gradient = (torch.randn((17, 6), generator=generator) for _ in range(2))
    gradient[3] = 0
    expected = start - 0.3 * gradient / (gradient.square().mean(1).sqrt() + 1e-10)[:, None]
    for table, given in (
        (start.T.contiguous().T, gradient),
        (start.clone(), gradient.T.contiguous().T),
        (start.clone(), gradient.to_sparse()),  # cell by cell
        (start.clone(), gradient.to_sparse(1)),
    ):
        leaf = torch.nn.Parameter(table)
        leaf.grad = given
        nn.RowwiseAdagrad([leaf], lr=0.3).step()
        torch.testing.assert_close(leaf.detach(), expected)


def test_a_graph_from_before_a_step_is_refused(generator):
    layer = nn.SDMLayer(11, ProductKeys(24, 49, top_k=5, learned=True))
    output = layer(torch.randn((5, 11), generator=generator)).output.square().sum()
    output.backward(retain_graph=True)
    nn.RowwiseAdagrad([layer.contents]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


def test_sparse_gradients_work_with_the_optimisers_and_the_scaler_of_torch(generator):
    x = torch.randn((5, 24), generator=generator)
    for kind in (torch.optim.SparseAdam, nn.RowwiseAdagrad):
        results = []
        for scale in (None, 8.0):
            torch.manual_seed(0)
            layer = nn.SDMLayer(24, n_locations=49, n_heads=2, top_k=3, sparse_gradients=True)
            before = layer.contents.detach().clone()
            optimiser = kind([layer.contents], lr=0.1)
            scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=bool(scale))
            for part in x.split(2):  # accumulates
                scaler.scale(layer(part).output.square().sum()).backward()
            scaler.step(optimiser)
            change = layer.contents.detach() - before
            assert torch.equal((change != 0).any(1), layer.n_reads > 0)
            results.append(change)
        torch.testing.assert_close(*results)


def test_rowwise_adagrad_refuses_what_has_no_rows():
    with pytest.raises(
        ArgumentError, match=r"`parameters` must have two dimensions, got one of sh"
    ):
        nn.RowwiseAdagrad([torch.nn.Parameter(torch.zeros(3))])
    with pytest.raises(ArgumentError, match=r"`lr` must be at least 0\.0, got -1"):
        nn.RowwiseAdagrad([torch.nn.Parameter(torch.zeros(3, 3))], lr=-1)
    with pytest.raises(ArgumentError, match=r"`eps` must be at least 1e-30, got 0\.0"):
        nn.RowwiseAdagrad([torch.nn.Parameter(torch.zeros(3, 3))], eps=0.0)
    optimiser = nn.RowwiseAdagrad([torch.nn.Parameter(torch.zeros(3, 3))])
    with pytest.raises(ArgumentError, match="have two dimensions, got one of shape"):
        optimiser.add_param_group({"params": torch.nn.Parameter(torch.zeros(3))})
    with pytest.raises(ArgumentError, match=r"`lr` must be at least 0\.0, got -3"):
        optimiser.add_param_group({"params": [torch.nn.Parameter(torch.zeros(3, 3))], "lr": -3})

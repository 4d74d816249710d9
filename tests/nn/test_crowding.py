"""The loss that keeps the addresses of a sequence memory apart."""

import pytest
import torch

from pentti.errors import ArgumentError
from pentti.nn import PenttiTransformer, SequenceMemory, crowding


def test_it_is_the_mean_logarithm_of_one_and_the_evidence(generator):
    evidence = torch.rand(3, 5, generator=generator, dtype=torch.float64) * 10
    expected = (1 + evidence).log().mean()
    torch.testing.assert_close(crowding(evidence), expected)
    torch.testing.assert_close(crowding(evidence[:, None].expand(3, 2, 5)), expected)


def test_what_is_no_token_does_not_count(generator):
    evidence = torch.rand(3, 2, 5, generator=generator)
    mask = torch.rand(3, 5, generator=generator) < 0.6
    expected = evidence.log1p().movedim(1, 2)[mask].mean()
    torch.testing.assert_close(crowding(evidence, mask), expected)
    assert crowding(evidence, torch.zeros_like(mask)) == 0
    assert crowding(evidence[:, :, :0]) == 0


def test_half_precision_does_not_overflow_and_what_is_no_token_has_no_gradient():
    assert crowding(torch.full((4, 20_000), 60.0).half()).isfinite()
    evidence = torch.tensor([[1.0, torch.nan]], requires_grad=True)
    crowding(evidence, torch.tensor([[True, False]])).backward()
    assert evidence.grad.tolist() == [[0.5, 0.0]]


@pytest.mark.parametrize("rule", ["hebbian", "delta"])
@pytest.mark.parametrize("n_codebooks", [2, 4])
def test_its_gradient_spreads_addresses(rule, n_codebooks, generator):
    torch.manual_seed(3)
    layer = SequenceMemory(32, 2, n_locations=6**4, n_codebooks=n_codebooks, rule=rule)
    assert layer.decoder.n_codebooks == n_codebooks
    x = torch.randn(2, 200, 32, generator=generator) + 3 * torch.randn(32, generator=generator)
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-2)
    crowded = []
    for _ in range(20):
        loss = crowding(layer(x).evidence)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        crowded.append(loss.item())
    assert crowded[-1] < 0.8 * crowded[0]


def test_a_model_can_be_trained_with_it():
    torch.manual_seed(4)
    model = PenttiTransformer(
        32, 16, 2, 2, memory_kind="sequence", sequence={"max_length": 64, "n_codebooks": 4}
    )
    ids = torch.randint(32, (2, 20))
    crowding(model.with_evidence(ids).evidence).backward()
    moved = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    assert any("memory.address" in name for name in moved)


@pytest.mark.parametrize(
    ("evidence", "mask", "said"),
    [
        ([1.0], None, "`evidence` must be a floating tensor"),
        (torch.ones(2, 3).long(), None, "`evidence` must be a floating tensor"),
        (torch.ones(3), None, "`evidence` must have shape"),
        (torch.ones(2, 3), torch.ones(2, 3), "`token_mask` must be a bool tensor"),
        (torch.ones(2, 3), "x", "`token_mask` must be a bool tensor"),
        (torch.ones(2, 4, 3), torch.ones(2, 4, dtype=torch.bool), "`token_mask` must have the"),
    ],
)
def test_bad_arguments(evidence, mask, said):
    with pytest.raises(ArgumentError, match=said):
        crowding(evidence, mask)

"""Which pieces each step takes."""

import pytest
import torch
from helpers import outcome_of

from pentti.errors import ArgumentError
from pentti.training import Batch, Batches, Piece, build


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches")
    generator = torch.Generator().manual_seed(1)
    for i in range(23):
        n = int(torch.randint(1, 700, (1,), generator=generator))
        (folder / f"{i:02}.txt").write_bytes(bytes([33 + i]) * n)
    return outcome_of(build([str(folder)], folder / "corpus"))[0]


def epoch_of(batches, number):
    steps, step = [], 0
    while True:
        pieces = batches.pieces(step)
        if batches.epoch > number:
            return steps
        if batches.epoch == number:
            steps.append(pieces)
        step += 1


@pytest.mark.parametrize("epoch", [0, 1, 4])
@pytest.mark.parametrize(("context", "n_tokens"), [(100, 500), (1000, 1000), (7, 3)])
def test_an_epoch_tells_every_id_once(corpus, context, n_tokens, epoch):
    told = []
    for pieces in epoch_of(Batches(corpus, context, n_tokens, seed=3), epoch):
        assert len(pieces) * max(piece.n for piece in pieces) <= max(n_tokens, context)
        assert all(1 <= piece.n <= context for piece in pieces)
        told += [(p.document, place) for p in pieces for place in range(p.start, p.start + p.n)]
    wanted = {(d, place) for d in corpus.train for place in range(corpus.n_ids(d) - 1)}
    assert len(told) == len(wanted)
    assert set(told) == wanted


def test_a_step_is_the_same_whatever_was_asked_before(corpus):
    one, other = (Batches(corpus, 100, 500, seed=3) for _ in range(2))
    forwards = [one.pieces(step) for step in range(60)]
    assert one.epoch > 1
    backwards = [other.pieces(step) for step in reversed(range(60))]
    assert forwards == backwards[::-1]
    assert Batches(corpus, 100, 500, seed=4).pieces(0) != forwards[0]


def test_little_of_a_batch_is_padding(corpus):
    """Prediction: sorted by length within a pool, less than a tenth of all places is empty."""
    batches = epoch_of(Batches(corpus, 100, 500, seed=3), 0)
    places = sum(len(pieces) * max(piece.n for piece in pieces) for pieces in batches)
    tokens = sum(piece.n for pieces in batches for piece in pieces)
    assert tokens / places > 0.9


def test_rows_hold_what_goes_in_and_what_is_to_be_told(corpus):
    document = corpus.train[0]
    whole = corpus.ids(document)
    batch = Batch.of(corpus, [Piece(document, 0, len(whole) - 1), Piece(document, 2, 3)])
    assert batch.ids[0].tolist() == whole[:-1].tolist()
    assert batch.targets[0].tolist() == whole[1:].tolist()
    assert batch.ids[1, :3].tolist() == whole[2:5].tolist()
    assert batch.targets[1, :3].tolist() == whole[3:6].tolist()
    assert batch.mask.sum(1).tolist() == [len(whole) - 1, 3]
    assert (batch.ids[1, 3:] == 256).all()
    assert (batch.targets[1, 3:] == -100).all()
    assert batch.n_targets == len(whole) + 2


def test_wrong_arguments_are_named(corpus):
    batches = Batches(corpus, 100, 500, seed=3)
    for call, message in (
        (lambda: batches.pieces(-1), "Batches: `step` must be at least 0, got -1"),
        (lambda: batches.pieces(0.5), "Batches: `step` must be an integer at least 0, got 0.5"),
        (lambda: Batches(corpus, 0, 500, 3), "Batches: `context` must be at least 1, got 0"),
        (lambda: Batches(corpus, 9, -1, 3), "Batches: `n_tokens` must be at least 1, got -1"),
        (lambda: Batches(corpus, 9, 9, -1), "Batches: `seed` must be at least 0, got -1"),
        (lambda: Batch.of(corpus, []), "Batch: `pieces` must hold one at least, got"),
        (lambda: Batch.of(corpus, [Piece(23, 0, 1)]), r"`document` must be in \[0, 22\], got 23"),
    ):
        with pytest.raises(ArgumentError, match=message):
            call()

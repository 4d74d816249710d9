"""Work that comes as a generator."""

import pytest

from pentti import finish
from pentti.errors import ArgumentError


def count(n, closed):
    try:
        yield from range(n)
    finally:
        closed.append(n)
    return n


def test_work_is_run_to_its_end_and_its_result_comes_back():
    told, closed = [], []
    assert finish(count(3, closed), told.append) == 3
    assert told == [0, 1, 2]
    assert finish(count(0, closed)) == 0
    assert closed == [3, 0]


def test_work_that_has_begun_goes_on():
    work, told = count(3, []), []
    next(work)
    assert finish(work, told.append) == 3
    assert told == [1, 2]


def test_an_error_in_the_telling_closes_the_work():
    closed = []

    def broken(step):
        raise KeyError(step)

    with pytest.raises(KeyError):
        finish(count(3, closed), broken)
    assert closed == [3]


def test_what_is_no_work_is_refused():
    for given in (5, [1, 2], None):
        with pytest.raises(ArgumentError, match="finish: `work` must be a generator, got"):
            finish(given)
    finish(work := count(1, []))
    with pytest.raises(ArgumentError, match="be a generator that has not ended"):
        finish(work)

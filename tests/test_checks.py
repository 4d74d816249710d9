import numpy as np
import pytest

from pentti import checks
from pentti.errors import ArgumentError, PenttiError


def test_every_error_is_a_pentti_error_and_a_value_error():
    with pytest.raises(PenttiError):
        checks.count("f", "n", 0)
    with pytest.raises(ValueError, match=r"^f: `n` must be at least 1, got 0$"):
        checks.count("f", "n", 0)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integer_accepts_whole_numbers_of_any_library(value):
    assert checks.integer("f", "n", value, 0, 3) == 3
    assert type(checks.integer("f", "n", value, 0, 3)) is int


@pytest.mark.parametrize("value", [True, 3.0, "3", None])
def test_integer_refuses_what_is_no_whole_number(value):
    with pytest.raises(ArgumentError, match=r"f: `n` must be an integer in \[0, 3\], got "):
        checks.integer("f", "n", value, 0, 3)


def test_integer_names_the_range_and_the_value():
    with pytest.raises(ArgumentError, match=r"f: `n` must be in \[0, 3\], got 4$"):
        checks.integer("f", "n", 4, 0, 3)
    with pytest.raises(ArgumentError, match=r"f: `n` must be at least 0, got -1$"):
        checks.integer("f", "n", -1, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_number_refuses_what_is_not_finite(value):
    with pytest.raises(ArgumentError, match=r"f: `x` must be finite, got (nan|inf)$"):
        checks.number("f", "x", value, 0.0, 1.0)


@pytest.mark.parametrize("value", [True, "0.5", 1j])
def test_number_refuses_what_is_no_number(value):
    with pytest.raises(ArgumentError, match="f: `x` must be a number, got "):
        checks.number("f", "x", value, 0.0, 1.0)


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, float("nan")])
def test_probability_is_open_at_both_ends(value):
    with pytest.raises(ArgumentError, match="f: `p` must be "):
        checks.probability("f", "p", value)
    assert checks.probability("f", "p", np.float32(0.5)) == 0.5


def test_one_of_lists_the_choices():
    checks.one_of("f", "kind", "a", ["a", "b"])
    with pytest.raises(ArgumentError, match=r"f: `kind` must be one of 'a', 'b', got 'c'$"):
        checks.one_of("f", "kind", "c", ["a", "b"])


def test_what_cannot_be_shown_is_described():
    with pytest.raises(ArgumentError, match=r"at least 1, got a int too long to show$"):
        checks.count("f", "n", -(10**5000))
    with pytest.raises(ArgumentError, match=r"got array\(\[\[0, 0\], \[0, 0\]\]\)$"):
        checks.reject("f", "x", "be text", np.zeros((2, 2), dtype=int))


def test_long_values_are_cut():
    with pytest.raises(ArgumentError, match=r"got '?x{70,}\.\.\.$"):
        checks.reject("f", "x", "be short", checks.Words("x" * 500))


def test_a_flag_is_true_or_false():
    assert checks.flag("f", "x", True) is True
    assert checks.flag("f", "x", 0) is False
    with pytest.raises(ArgumentError, match="f: `x` must be one of False, True, got 'no'"):
        checks.flag("f", "x", "no")

"""What a printed number claims: its value, to half a unit in its last place."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest


@pytest.fixture
def printed() -> Callable[[str], Any]:
    """`value == printed("1071.85")` holds where the value rounds to what is printed."""

    def claim(text: str) -> Any:
        number = Decimal(text)
        half_a_unit = 0.5 * 10.0 ** int(number.as_tuple().exponent)
        return pytest.approx(float(number), rel=0, abs=half_a_unit * (1 + 1e-9))

    return claim

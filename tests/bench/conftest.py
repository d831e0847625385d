"""Labs for the tests; see bench/netlab."""

from collections.abc import Iterator

import pytest

from bench.netlab.testing import MakeLab, labs
from tests.template import start_inside


@pytest.fixture
def lab() -> Iterator[MakeLab]:
    """`lab(hosts=3, preset="wan")` makes a lab that ends with the test; what a plan says goes."""
    with labs(start_inside) as make:
        yield make

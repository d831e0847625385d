"""Labs for tests, as many as one wants, that end with a block."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.netlab.lab import Lab, open_lab
from bench.netlab.plan import make_plan

MakeLab = Callable[..., Lab]


@contextmanager
def labs() -> Iterator[MakeLab]:
    """Yield what makes a lab of what a plan says: `make(hosts=3, preset="wan")`."""
    with ExitStack() as made:

        def make(**said: Any) -> Lab:
            return made.enter_context(open_lab(make_plan(**said)))

        yield make

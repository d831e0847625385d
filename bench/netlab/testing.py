"""Labs for tests, as many as one wants, that end with a block; and how to wait for what they do."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.netlab.hosts import Launch, execute
from bench.netlab.lab import Lab, open_lab
from bench.netlab.plan import make_plan

MakeLab = Callable[..., Lab]

_LOOK_AGAIN_S = 0.05


def within(seconds: float, condition: Callable[[], bool], what: str | Callable[[], object]) -> None:
    """Return when `condition` holds; what it looks at tells nobody that it changed.

    Half of the time at most is spent on looking.

    Raises:
        AssertionError: it does not hold in time; with `what`, or what it returns then.
    """
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if condition():
            return
        if time.monotonic() > deadline:
            raise AssertionError(what if isinstance(what, str) else what())
        time.sleep(max(_LOOK_AGAIN_S, time.monotonic() - began))


@contextmanager
def labs(launch: Launch = execute) -> Iterator[MakeLab]:
    """Yield what makes a lab of what a plan says: `make(hosts=3, preset="wan")`.

    Args:
        launch: starts the commands of its hosts.
    """
    with ExitStack() as made:

        def make(**said: Any) -> Lab:
            lab = made.enter_context(open_lab(make_plan(**said)))
            for host in lab.hosts:
                host.execute = launch
            return lab

        yield make

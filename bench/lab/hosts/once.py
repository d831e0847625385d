"""Does what is asked once, however often the question arrives, and whoever still waits for it.

Over the overlay a question is sent again when the stream that carried it was cut, because nobody
can know whether it had arrived. Starting clients twice would not do.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field

import structlog
import trio
from pydantic import BaseModel

from bench.lab.errors import LoadFailed
from overlay.errors import MyxoError

MAX_REMEMBERED = 1024
"""Questions; one that arrives again does so within seconds."""

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Outcome:
    answer: BaseModel | None = None
    error: MyxoError | None = None
    known: trio.Event = field(default_factory=trio.Event)


class Once:
    """Does things in a nursery of its owner's, and remembers what came of them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._outcomes: OrderedDict[Hashable, _Outcome] = OrderedDict()

    async def do(self, key: Hashable, act: Callable[[], Awaitable[BaseModel]]) -> BaseModel:
        """Return what `act` returns, or returned when the same key was given before.

        Raises:
            MyxoError: `act` did.
        """
        outcome = self._outcomes.get(key)
        if outcome is None:
            outcome = self._outcomes[key] = _Outcome()
            self._nursery.start_soon(_act, act, outcome)
            if len(self._outcomes) > MAX_REMEMBERED:
                self._outcomes.popitem(last=False)
        await outcome.known.wait()
        if outcome.answer is None:
            raise outcome.error or LoadFailed("nothing came of it")
        return outcome.answer


async def _act(act: Callable[[], Awaitable[BaseModel]], outcome: _Outcome) -> None:
    try:
        outcome.answer = await act()
    except MyxoError as exc:
        outcome.error = exc
    except Exception as exc:  # a bug that one order meets must not end the clients of the others
        log.exception("order.failed")
        outcome.error = LoadFailed(f"the load host cannot do it ({type(exc).__name__}: {exc})")
    finally:
        outcome.known.set()

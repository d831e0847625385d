"""What wakes the thread of a map, and who goes first at its end."""

import threading
from collections.abc import Callable

import pytest
import trio

from myxo.mapping import engine as engine_module
from myxo.mapping.engine import Engine
from myxo.mapping.items import Items, SequenceItems
from myxo.mapping.loops import Settled
from myxo.mapping.mailbox import Mailbox
from myxo.mapping.outcomes import Outcomes
from myxo.mapping.settings import MapSettings

TIMEOUT_S = 60.0


class Resting:
    """Work, its map and where that takes its indices from: it only notes what was taken."""

    def __init__(self) -> None:
        self.noted: list[int] = []

    def begin(
        self,
        items: Items,
        deliver: Callable[[Outcomes], None],
        settings: MapSettings,
        read_more: Callable[[int], None] | None,
    ) -> tuple["Resting", "Resting"]:
        del items, deliver, settings, read_more
        return self, self

    async def run(self, settled: Settled) -> None:
        del settled
        await trio.sleep_forever()

    def taken(self, outcomes: int) -> None:
        self.noted.append(outcomes)

    def look_again(self) -> None:
        raise AssertionError

    def offer(self, items: int) -> None:
        del items

    def close(self) -> None:
        return


@pytest.mark.parametrize(("untaken", "noted"), [(None, []), (10, [3, 4])])
def test_a_map_is_woken_by_what_is_taken_only_where_that_holds_it_back(
    untaken: int | None, noted: list[int]
) -> None:
    work = Resting()
    settings = MapSettings(untaken=untaken)
    engine = Engine(work, SequenceItems([]), Mailbox(lambda: None), settings)
    engine.start()
    engine.took(3)
    engine.took(4)
    engine.cancel()
    engine.join()
    assert work.noted == noted


def test_a_caller_that_is_told_of_the_end_goes_on_before_the_map_clears_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "JOIN_S", TIMEOUT_S)
    order: list[str] = []
    ended, cleared = threading.Event(), threading.Event()

    class Settling(Resting):
        async def run(self, settled: Settled) -> None:
            settled()
            order.append("cleared up")
            cleared.set()

    engine = Engine(Settling(), SequenceItems([]), Mailbox(ended.set), MapSettings())
    engine.start()
    assert ended.wait(TIMEOUT_S)
    order.append("went on")
    engine.join()
    assert cleared.wait(TIMEOUT_S)
    assert order == ["went on", "cleared up"]


def test_who_has_joined_a_map_is_not_told_of_its_end_any_more() -> None:
    told, joined = threading.Event(), threading.Event()

    def tell() -> None:
        assert not joined.wait(0.2), "the caller's loop may be gone by now"
        told.set()

    engine = Engine(Resting(), SequenceItems([]), Mailbox(tell), MapSettings())
    engine.start()
    engine.cancel()
    engine.join()
    joined.set()
    assert told.is_set()

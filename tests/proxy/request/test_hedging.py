"""Races of two attempts, in virtual time."""

from collections.abc import Awaitable, Callable
from typing import cast

import pytest
import trio
import trio.testing

from overlay.http.errors import ClientGone, ResponseCut
from overlay.http.exchange import Exchanged
from overlay.http.seam import Client
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.records import InstanceRecord, InstanceState, Version
from overlay.view import InstanceView
from proxy.request.hedging import LOOK_AGAIN_S, Race

DELAY_S = 1.0


class Lost(Exception):
    """The attempt failed before it answered."""


class Waiting:
    """A client that leaves after so many seconds."""

    def __init__(self, leaves_s: float = float("inf")) -> None:
        self._leaves_s = leaves_s

    async def until_gone(self) -> None:
        await trio.sleep(self._leaves_s)


def instance(name: str) -> InstanceView:
    record = InstanceRecord(
        version=Version(epoch=1.0, counter=1),
        id=InstanceId(name),
        service=ServiceName("hello"),
        revision=1,
        state=InstanceState.READY,
        concurrency=1,
    )
    return InstanceView(PeerId("p"), record, None, local=True, suspect=False)


A, B = instance("a"), instance("b")


class Course:
    """What each attempt does, and what became of it."""

    def __init__(self, **answers: tuple[float, float, Exception | None]) -> None:
        """Answers: seconds to the head, then to the end, then what is raised (before the head)."""
        self._answers = answers
        self.begun: list[tuple[str, float]] = []
        self.ended: list[str] = []

    async def send(self, to: InstanceView, claim: Callable[[], None]) -> Exchanged:
        name = to.record.id
        self.begun.append((name, trio.current_time() - self.at))
        head_s, body_s, failure = self._answers[name]
        try:
            await trio.sleep(head_s)
            if isinstance(failure, Lost):
                raise failure
            claim()
            await trio.sleep(body_s)
            if failure is not None:
                raise failure
        finally:
            self.ended.append(name)
        return Exchanged(200 if to is A else 201, 0, 0, 0.0, 0.0)

    async def run(
        self,
        second: InstanceView | None = B,
        client: Waiting | None = None,
        *,
        free_s: float = 0.0,
        delay_s: float = DELAY_S,
    ) -> int:
        """Run the race; `second` has room after `free_s` seconds."""
        self.at = trio.current_time()
        race = Race(cast("Client", client or Waiting()), (Lost,))

        def found() -> InstanceView | None:
            return second if trio.current_time() - self.at >= free_s else None

        exchanged = await race.run(A, delay_s, self.send, found)
        return exchanged.status


Clock = trio.testing.MockClock


async def took(work: Awaitable[int]) -> tuple[int, float]:
    began = trio.current_time()
    return await work, trio.current_time() - began


async def test_a_quick_answer_asks_nobody_else(autojump_clock: Clock) -> None:
    course = Course(a=(0.9, 0, None))
    assert await took(course.run()) == (200, 0.9)
    assert course.begun == [("a", 0)]


async def test_the_second_wins_if_its_answer_is_there_first(autojump_clock: Clock) -> None:
    course = Course(a=(5, 0, None), b=(1, 2, None))
    assert await took(course.run()) == (201, 4)
    assert course.begun == [("a", 0), ("b", 1)]
    assert course.ended == ["a", "b"]


async def test_the_first_may_still_win_and_then_the_second_is_ended(
    autojump_clock: Clock,
) -> None:
    course = Course(a=(2, 10, None), b=(5, 0, None))
    assert await took(course.run()) == (200, 12)
    assert course.ended == ["b", "a"]


async def test_a_first_that_is_lost_soon_is_not_hedged(autojump_clock: Clock) -> None:
    course = Course(a=(0.5, 0, Lost("a")))
    with pytest.raises(Lost):
        await course.run()
    assert course.begun == [("a", 0)]


async def test_one_that_is_lost_leaves_the_client_to_the_other(autojump_clock: Clock) -> None:
    course = Course(a=(2, 0, Lost("a")), b=(5, 0, None))
    assert await took(course.run()) == (201, 6)
    course = Course(a=(9, 0, None), b=(2, 0, Lost("b")))
    assert await took(course.run()) == (200, 9)


async def test_the_last_failure_is_told_when_both_are_lost(autojump_clock: Clock) -> None:
    course = Course(a=(2, 0, Lost("a")), b=(5, 0, Lost("b")))
    with pytest.raises(Lost, match="b"):
        await course.run()


async def test_without_another_instance_the_first_is_waited_for(autojump_clock: Clock) -> None:
    assert await took(Course(a=(9, 0, None)).run(second=None)) == (200, 9)


async def test_who_has_room_only_later_is_asked_then(autojump_clock: Clock) -> None:
    course = Course(a=(60, 0, None), b=(1, 0, None))
    assert await took(course.run(free_s=2.5)) == (201, 4)
    assert course.begun == [("a", 0), ("b", 3)]
    course = Course(a=(60, 0, None), b=(1, 0, None))
    await course.run(free_s=1, delay_s=0.001)
    assert 1 <= course.begun[1][1] < 1 + 2 * LOOK_AGAIN_S


async def test_a_client_that_leaves_ends_both(autojump_clock: Clock) -> None:
    course = Course(a=(9, 0, None), b=(9, 0, None))
    with pytest.raises(ClientGone):
        await course.run(client=Waiting(3))
    assert sorted(course.ended) == ["a", "b"]


async def test_what_goes_wrong_after_the_answer_has_begun_is_told_as_it_is(
    autojump_clock: Clock,
) -> None:
    course = Course(a=(2, 1, ResponseCut(200, "cut")), b=(9, 0, None))
    with pytest.raises(ResponseCut):
        await course.run()
    assert course.ended == ["b", "a"]

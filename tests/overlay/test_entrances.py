"""How a peer gets into its network, in virtual time."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
import trio.testing

from overlay.entrances import REDIAL_MOST_S, REMEMBERED_AFTER_S, Entrances
from overlay.errors import PeerUnreachable
from overlay.names import PeerId


@dataclass
class Site:
    """What a peer may reach, and whom it dialled.

    Attributes:
        alone: nobody is connected.
        file: what it remembers.
        dialled: when it tried which of those.
    """

    alone: bool = True
    file: tuple[str, ...] = ("one",)
    dialled: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)

    def remembered(self) -> tuple[str, ...]:
        return self.file

    async def dial(self, address: str) -> PeerId:
        await trio.lowlevel.checkpoint()
        raise PeerUnreachable(f"nobody answers at {address}")

    async def dial_any(self, addresses: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        self.dialled.append((trio.current_time(), tuple(addresses)))
        self.alone = False


@asynccontextmanager
async def entrances_of(site: Site, *bootstraps: str) -> AsyncIterator[Entrances]:
    entrances = Entrances(
        bootstraps,
        site.remembered,
        dial=site.dial,
        dial_any=site.dial_any,
        is_kept=lambda _peer: False,
        is_alone=lambda: site.alone,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(entrances.run)
        yield entrances
        nursery.cancel_scope.cancel()


async def test_who_was_there_is_tried_when_no_bootstrap_answers_for_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    site, start = Site(), trio.current_time()
    async with entrances_of(site, "gone"):
        await trio.sleep(60)
    assert site.dialled == [(start + REMEMBERED_AFTER_S, ("one",))]


async def test_who_is_alone_again_tries_those_that_it_remembers_by_then(
    autojump_clock: trio.testing.MockClock,
) -> None:
    site = Site(alone=False)
    async with entrances_of(site, "gone") as entrances:
        entrances.joined.set()
        await trio.sleep(3600)
        assert site.dialled == []
        site.alone, site.file = True, ("another", "a third")
        await trio.sleep(2 * REDIAL_MOST_S)
        assert [tried for _, tried in site.dialled] == [("another", "a third")]
        site.alone = True
        await trio.sleep(2 * REDIAL_MOST_S)
        assert len(site.dialled) == 2


async def test_who_remembers_nobody_dials_nobody(autojump_clock: trio.testing.MockClock) -> None:
    site = Site(file=())
    async with entrances_of(site):
        await trio.sleep(60)
    assert site.dialled == []

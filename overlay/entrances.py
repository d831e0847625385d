"""How a peer gets into its network, and back: by its bootstraps, or by who was there before."""

from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog
import trio

from overlay.errors import PassphraseRefused, PeerUnreachable
from overlay.names import PeerId

REDIAL_FIRST_S = 0.2
REDIAL_MOST_S = 10.0

REDIAL_WARN_S = 3.0
"""Daemons that are started together find each other within this time; nobody needs to know."""

REMEMBERED_AFTER_S = 2.0
"""How long the bootstrap nodes have to answer before peers of an earlier time are tried."""

log = structlog.get_logger()


class Entrances:
    """Dials bootstraps, and peers that are remembered, while `run` runs.

    Args:
        bootstraps: multiaddrs, which say who answers there.
        remembered: returns multiaddrs of peers that were there before, tried while no bootstrap
            answers.
        dial: connects to an address; returns who answered.
        dial_any: connects to one of several addresses, or to none.
        is_kept: whether a bootstrap need not be dialled.
        is_alone: whether no other peer is connected.

    Attributes:
        bootstraps: as given.
        joined: set by whoever hears that a member has told what it knows.
    """

    def __init__(
        self,
        bootstraps: Iterable[str],
        remembered: Callable[[], Sequence[str]],
        *,
        dial: Callable[[str], Awaitable[PeerId]],
        dial_any: Callable[[Sequence[str]], Awaitable[None]],
        is_kept: Callable[[PeerId], bool],
        is_alone: Callable[[], bool],
    ) -> None:
        self.bootstraps = tuple(bootstraps)
        self.joined = trio.Event()
        self._remembered = remembered
        self._dial = dial
        self._dial_any = dial_any
        self._is_kept = is_kept
        self._is_alone = is_alone
        self._refused: set[str] = set()

    async def run(self) -> None:
        """Stay in touch with the bootstraps until cancelled.

        Raises:
            PassphraseRefused: every bootstrap answers but shares no passphrase, before this peer
                has ever joined.
        """
        async with trio.open_nursery() as nursery:
            for address in self.bootstraps:
                nursery.start_soon(self._keep, address)
            nursery.start_soon(self._try_remembered)

    async def _keep(self, address: str) -> None:
        """Stay in touch with one bootstrap."""
        peer: PeerId | None = None
        delay = REDIAL_FIRST_S
        warned = False
        while True:
            if peer is not None and self._is_kept(peer):
                await trio.sleep(REDIAL_FIRST_S)
                continue
            try:
                peer = await self._dial(address)
                if warned:
                    log.warning("bootstrap.back", address=address)
                delay, warned = REDIAL_FIRST_S, False
            except PassphraseRefused:
                self._refused.add(address)  # one that joined later may not know an older passphrase
                if not self.joined.is_set() and self._refused.issuperset(self.bootstraps):
                    raise
            except PeerUnreachable as exc:
                due = delay >= REDIAL_WARN_S and not warned
                warned = warned or due
                tell = log.warning if due else log.debug
                tell("bootstrap.unreachable", address=address, error=str(exc))
            await trio.sleep(delay)
            delay = min(delay * 2, REDIAL_MOST_S)

    async def _try_remembered(self) -> None:
        """Find the network by the peers that were there before, whenever nobody is there.

        That may be long after the start: a process that started while its site was cut off is
        unknown to everybody beyond, and if whom it met goes, it is alone with its bootstraps.
        """
        if self.bootstraps:
            with trio.move_on_after(REMEMBERED_AFTER_S):
                await self.joined.wait()
        delay = REDIAL_FIRST_S
        while True:
            if not self._is_alone():
                delay = REDIAL_FIRST_S
                await trio.sleep(REDIAL_MOST_S)
                continue
            remembered = self._remembered()
            if remembered:
                await self._dial_any(remembered)
            await trio.sleep(delay)
            delay = min(delay * 2, REDIAL_MOST_S)

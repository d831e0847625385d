"""A request sent to a second instance when the first does not answer soon; the first answer counts.

    first ───────────────┬──────────────► answered ──► the other is ended
             hedge_ms    └─► second ────►

An answer counts from its head on: whichever attempt has one first *claims* the client, and only it
says anything to it. The client is watched here, once for both: when it leaves, both end.
"""

from collections.abc import Awaitable, Callable

import trio

from overlay.http.errors import ClientGone
from overlay.http.exchange import Exchanged
from overlay.http.seam import Client
from overlay.view import InstanceView

LOOK_AGAIN_S = 0.05
"""How often another instance is looked for, at the most."""

Sent = Callable[[InstanceView, Callable[[], None]], Awaitable[Exchanged]]


class Slower(Exception):
    """The other attempt has claimed the client."""


class Race:
    """Up to two attempts, of which one answers the client.

    Args:
        client: whose request it is; it has been read whole.
        lost: what an attempt may raise that leaves the client to the other one.
    """

    def __init__(self, client: Client, lost: tuple[type[Exception], ...]) -> None:
        self._client = client
        self._lost = lost
        self._running: set[trio.CancelScope] = set()
        self._winner: trio.CancelScope | None = None
        self._result: Exchanged | None = None
        self._failure: Exception | None = None
        self._changed = trio.Event()

    async def run(
        self,
        first: InstanceView,
        delay_s: float,
        send: Sent,
        second: Callable[[], InstanceView | None],
    ) -> Exchanged:
        """Return what the winner has exchanged.

        Args:
            first: whom to ask at once.
            delay_s: how long to wait for its answer before another is asked.
            send: makes an attempt; calls what it is given when the answer begins.
            second: returns whom else to ask, if anybody.

        Raises:
            Exception: what the winner, or the last of the losers, raised; or ClientGone.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            self._begin(nursery, first, send)
            if (other := await self._second(delay_s, second)) is not None:
                self._begin(nursery, other, send)
            await self._until_decided()
            nursery.cancel_scope.cancel()
        if self._result is None:
            raise self._failure or ClientGone("the client left before it was answered")
        return self._result

    async def _second(
        self, delay_s: float, second: Callable[[], InstanceView | None]
    ) -> InstanceView | None:
        """Return whom else to ask when it is time; None if the first has answered, or is lost.

        Where nobody else has room then, somebody may a moment later.
        """
        changed = self._changed
        while True:
            with trio.move_on_after(delay_s):
                await changed.wait()
            if changed.is_set():
                return None
            if (other := second()) is not None:
                return other
            delay_s = max(delay_s, LOOK_AGAIN_S)

    def _begin(self, nursery: trio.Nursery, instance: InstanceView, send: Sent) -> None:
        scope = trio.CancelScope()
        self._running.add(scope)
        nursery.start_soon(self._attempt, scope, instance, send)

    async def _until_decided(self) -> None:
        """Wait until the winner has ended, or nobody runs who could win."""
        while self._running if self._winner is None else self._winner in self._running:
            await self._changed.wait()

    async def _attempt(self, scope: trio.CancelScope, instance: InstanceView, send: Sent) -> None:
        try:
            with scope:
                self._result = await send(instance, lambda: self._claim(scope))
        except Slower:
            return
        except self._lost as exc:
            self._failure = exc
        except Exception as exc:  # noqa: BLE001  (raised again in `run`, in no group)
            self._failure = exc
            self._winner = self._winner or scope
        finally:
            self._running.discard(scope)
            self._tell()

    def _claim(self, scope: trio.CancelScope) -> None:
        if self._winner is not None:
            raise Slower
        self._winner = scope
        for other in self._running:
            if other is not scope:
                other.cancel()
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _watch(self, scope: trio.CancelScope) -> None:
        await self._client.until_gone()
        self._failure = ClientGone("the client left before it was answered")
        scope.cancel()

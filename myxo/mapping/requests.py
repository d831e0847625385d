"""A map whose items are requests to a service: as many under way as the caller allows.

The proxy chooses the instance, starts what is missing and holds requests until one has room. So a
lane is a connection to the proxy and no more, and there are as many as there are items under way:
a further one is opened when an item finds all others busy. An item has one request under way at a
time and exactly one outcome; it is asked again only where the proxy passed it to nobody, or where
the caller said how often what failed is to be.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import trio

from myxo.mapping.backlog import Backlog
from myxo.mapping.flow import Flow
from myxo.mapping.items import Items
from myxo.mapping.loops import Settled
from myxo.mapping.outcomes import Outcomes
from myxo.mapping.settings import MapSettings
from myxo.services.asking import NO_TLS, Target, decoded, request, translated
from myxo.services.codec import Codec
from myxo.services.errors import NoProxy, RequestFailed, ServiceError
from myxo.services.proxy_address import ProxyAddress

NOT_NOW = frozenset({429, 503})
"""With Retry-After, from the proxy: nobody has seen the request."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 30.0
"""Before what failed is asked again, doubled each time; Retry-After is heeded up to the latter."""


@dataclass(frozen=True, slots=True)
class Requests:
    """What each item is sent to.

    Attributes:
        target: the service and the path.
        codec: of items and results.
        proxy: that is asked.
    """

    target: Target
    codec: Codec
    proxy: ProxyAddress

    def begin(
        self,
        items: Items,
        deliver: Callable[[Outcomes], None],
        settings: MapSettings,
        read_more: Callable[[int], None] | None,
    ) -> tuple[Backlog, "RequestRun"]:
        """Return where indices are offered, and the map that takes them from there."""
        backlog = Backlog()
        return backlog, RequestRun(self, items, backlog, deliver, settings, read_more=read_more)


class RequestRun(Flow):
    """Runs one such map.

    Args:
        requests: what each item is sent to.
        items: by index.
        backlog: which indices nobody has asked for.
        deliver: takes outcomes, each index once.
        settings: what the caller said.
        read_more: asks for so many items more of an input that is not whole; None where all are
            there.
    """

    def __init__(
        self,
        requests: Requests,
        items: Items,
        backlog: Backlog,
        deliver: Callable[[Outcomes], None],
        settings: MapSettings,
        *,
        read_more: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(items, deliver, settings, read_more)
        self._requests = requests
        self._backlog = backlog
        self._lanes = 0
        self._answered_at = 0.0

    async def run(self, settled: Settled) -> None:
        """Call `settled` when each item has its outcome.

        Raises:
            NoProxy: no proxy can be reached.
        """
        self._answered_at = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                send, receive = trio.open_memory_channel[int](0)
                async with send:
                    await self._feed(nursery, send, receive)
        except* NoProxy as group:
            raise group.exceptions[0] from None
        settled()

    async def _feed(
        self,
        nursery: trio.Nursery,
        send: trio.MemorySendChannel[int],
        receive: trio.MemoryReceiveChannel[int],
    ) -> None:
        """Hand each index to a lane that is idle; open one where none is and one may be."""
        while True:
            news = self._news.next
            indices = None if self._is_held_back() else self._backlog.take(1)
            if not self._backlog.closed:  # one more than there are lanes, for the next lane
                self._read(self._lanes + 1 - len(self._backlog))
            if indices is not None:
                (index,) = indices
                try:
                    send.send_nowait(index)
                except trio.WouldBlock:
                    if self._lanes < self._settings.max_in_flight:
                        self._lanes += 1
                        nursery.start_soon(self._lane, receive)
                    await send.send(index)
            elif self._backlog.closed and not len(self._backlog):
                return
            else:
                await news.wait()

    # A lane

    async def _lane(self, indices: trio.MemoryReceiveChannel[int]) -> None:
        # Not a client: its cookies would keep the lane at one instance of a sticky service, and it
        # logs each request.
        async with httpx.AsyncHTTPTransport(verify=NO_TLS, trust_env=False) as transport:
            async for index in indices:
                self._hand_over(self._outcomes(index, await self._outcome(transport, index)))

    def _outcomes(self, index: int, outcome: Any) -> Outcomes:
        faults = {}
        if isinstance(outcome, _Failed):
            faults[index], outcome = outcome.error, None
        target = str(self._requests.target)
        return Outcomes(range(index, index + 1), [outcome], faults, target)

    async def _outcome(self, transport: httpx.AsyncHTTPTransport, index: int) -> Any:
        """Ask until there is a result, or it is settled that there is none."""
        (item,) = self._items.take(range(index, index + 1))
        failures = 0
        while True:
            try:
                return await self._ask(transport, item)
            except NoProxy:
                raise
            except (ServiceError, TimeoutError) as exc:
                if self._is_refused(exc):
                    await trio.sleep(_wait_s(exc, 0))
                    continue
                failures += 1
                if failures > self._settings.retries:
                    return _failed(exc, index)
                await trio.sleep(_wait_s(exc, failures - 1))

    def _is_refused(self, error: Exception) -> bool:
        """Whether the network has no room for now, and had some not long ago."""
        now = trio.current_time()
        if not _is_not_now(error):
            self._answered_at = now
            return False
        return now - self._answered_at < self._settings.patience_s

    async def _ask(self, transport: httpx.AsyncHTTPTransport, item: Any) -> Any:
        target, codec, proxy = self._requests.target, self._requests.codec, self._requests.proxy
        asked = request(target, proxy, codec, item)
        bound_s = self._settings.timeout_s
        with trio.move_on_after(float("inf") if bound_s is None else bound_s):
            with translated(target, proxy):
                response = await transport.handle_async_request(asked)
                await response.aread()
            value = decoded(target, codec, response)
            self._answered_at = trio.current_time()
            return value
        raise TimeoutError(f"{target} took over {bound_s:g} s")


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


def _failed(error: Exception, index: int) -> _Failed:
    if isinstance(error, ServiceError):
        error.index = index
    error.add_note(f"item {index} of the map")
    return _Failed(error)


def _is_not_now(error: Exception) -> bool:
    return (
        isinstance(error, RequestFailed)
        and error.by_network
        and error.status in NOT_NOW
        and error.retry_after_s is not None
    )


def _wait_s(error: Exception, failures: int) -> float:
    if isinstance(error, RequestFailed) and error.retry_after_s is not None:
        return min(error.retry_after_s, LONGEST_WAIT_S)
    return float(min(FIRST_WAIT_S * 2**failures, LONGEST_WAIT_S))

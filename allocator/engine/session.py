"""The conversation with a Docker engine: calls in threads, its events, its loss and its return.

The SDK blocks, so every call runs in a thread with a bounded number of them; nobody outside of this
module sees one. Exits are learnt from the engine's event stream; when that breaks (the engine was
restarted) the engine is down until it stands again, and what ended meanwhile is found by a look at
the list. An engine that leaves a call unanswered is down likewise until it has answered all that a
new conversation begins with, its networks among it: that is where Docker 20.10 can lock up for good
(moby#46661).

`DOCKER_HOST`, `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH` choose the engine as they do for the
`docker` command; the API version is negotiated.
"""

import platform
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import docker
import requests.exceptions
import structlog
import trio
from docker.errors import APIError

from allocator.engine.client import (
    CALL_TIMEOUT_S,
    CUT,
    accepts_calls,
    open_client,
    opened,
    say,
)
from allocator.engine.containers import MIB, unenforced_of
from allocator.engine.exits import Take, follow_exits
from allocator.engine.images import follow_images
from allocator.engine.networks import BRIDGES, ensure_networks
from allocator.engine.sandbox_image import ARCHITECTURES
from allocator.errors import RuntimeDown
from allocator.runtime import Capacity
from overlay.names import Digest
from overlay.spec import Network

CALLS_AT_ONCE = 16
"""Threads in the SDK at once; the engine itself starts about as many containers in parallel."""

FIRST_ANSWER_S = 30.0
"""How long an allocator that begins waits for the engine; it is used whenever it answers."""

RECONNECT_FIRST_S = 0.2
RECONNECT_MOST_S = 5.0

_REMEDY = "if `docker network ls` hangs too, restart the engine"

Settle = Callable[[], Awaitable[Callable[[], None]]]
"""Looks for what ended while no event stream stood; returns what to do once the engine is up."""

log = structlog.get_logger()

T = TypeVar("T")


class EngineSession:
    """One engine, as long as `run` runs.

    Args:
        labels: `name=value`s of the containers whose ends are of interest.

    Attributes:
        problem: why the engine cannot be used, and what to do; empty if it can.
        addresses: the machine's own on each of the containers' networks; empty before there is an
            engine.
        images: config digests of images that it has, the newest first.
        unenforced: limits that its kernel does not keep.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.problem = "the Docker engine was not looked for yet"
        self.addresses: Mapping[Network, str] = {}
        self.images: tuple[Digest, ...] = ()
        self.unenforced: tuple[str, ...] = ()
        self._labels = labels
        self._client: docker.APIClient | None = None
        self._capacity: Capacity | None = None
        self._change = trio.Event()
        self._limiter = trio.CapacityLimiter(CALLS_AT_ONCE)
        self._conversation = trio.CancelScope()

    @property
    def bridges(self) -> dict[str, str]:
        """The machine's address on each of the containers' bridges; empty without an engine."""
        return {BRIDGES[network]: address for network, address in self.addresses.items()}

    def capacity(self) -> Capacity:
        """Return what the engine's machine has.

        Raises:
            RuntimeDown: the engine has never answered yet.
        """
        if self._capacity is None:
            raise RuntimeDown(self.problem)
        return self._capacity

    async def changed(self) -> None:
        """Wait until the engine is lost or back, or its images are others."""
        await self._change.wait()

    async def accepts_calls(self) -> bool:
        """Return whether the engine answers on a new connection."""
        return await trio.to_thread.run_sync(
            accepts_calls, limiter=self._limiter, abandon_on_cancel=True
        )

    async def renew_networks(self) -> None:
        """Make the containers' networks again; see `call` for what it raises."""
        self.addresses = await self.call(ensure_networks)

    async def call(
        self,
        function: Callable[[docker.APIClient], T],
        *,
        abandon: bool = False,
        settling: bool = False,
    ) -> T:
        """Run `function` with the client in a thread; it runs to its end unless `abandon`.

        While the engine is lost nothing is tried, except in `settling` it when it is back. One that
        leaves a call unanswered is lost.

        Raises:
            APIError: the engine said no.
            RuntimeDown: it does not answer.
        """
        client = self._client
        if client is None or (self.problem and not settling):
            raise RuntimeDown(self.problem)
        try:
            return await trio.to_thread.run_sync(
                function, client, limiter=self._limiter, abandon_on_cancel=abandon
            )
        except APIError:
            raise  # it is a RequestException too
        except CUT as exc:
            problem = _why_cut(exc)
            if isinstance(exc, requests.exceptions.ReadTimeout) and client is self._client:
                self._set_problem(problem)
                self._conversation.cancel()
            raise RuntimeDown(problem) from exc

    async def run(
        self,
        settle: Settle,
        take_exit: Take,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Watch the engine until cancelled; `started` once it answered, or is known not to in time.

        Args:
            settle: awaited each time that the event stream stands, before the engine is up.
            take_exit: told the attributes of each container that ends.
            task_status: of the nursery.
        """
        ready = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, settle, take_exit, ready)
            nursery.start_soon(follow_images, self._take_images)
            with trio.move_on_after(FIRST_ANSWER_S) as waiting:
                await ready.wait()
            if waiting.cancelled_caught:
                self._set_problem(
                    f"the Docker engine has not answered for {FIRST_ANSWER_S:g} s; {_REMEDY}"
                )
            task_status.started()

    def close(self) -> None:
        """End the conversation, when nobody has anything more to say."""
        if self._client is not None:
            self._client.close()

    async def _watch(self, settle: Settle, take_exit: Take, ready: trio.Event) -> None:
        delay = RECONNECT_FIRST_S

        async def up() -> None:
            nonlocal delay
            done = await settle()
            delay = RECONNECT_FIRST_S
            self._set_problem("")
            done()
            ready.set()

        while True:
            with trio.CancelScope() as self._conversation:
                try:
                    await self._connect()
                    await follow_exits(self._client, self._labels, up, take_exit)
                except RuntimeDown as exc:
                    self._set_problem(str(exc))
            ready.set()
            await trio.sleep(delay)
            delay = min(delay * 2, RECONNECT_MOST_S)

    async def _connect(self) -> None:
        """Reach the engine and see to the network.

        Raises:
            RuntimeDown: saying what to do.
        """
        self.close()
        self._client = client = await opened(open_client, self._limiter)
        try:
            about = await trio.to_thread.run_sync(
                _survey, client, limiter=self._limiter, abandon_on_cancel=True
            )
        except (APIError, *CUT) as exc:
            raise RuntimeDown(_why_cut(exc)) from exc
        self._capacity, self.unenforced, self.addresses = about

    def _set_problem(self, problem: str) -> None:
        if problem == self.problem:
            return
        if problem:
            log.warning("engine.down", problem=problem)
        else:
            log.info("engine.up", bridges=self.bridges)
        self.problem = problem
        self._tell()

    def _take_images(self, images: tuple[Digest, ...]) -> None:
        if images != self.images:
            self.images = images
            self._tell()

    def _tell(self) -> None:
        self._change.set()
        self._change = trio.Event()


def _why_cut(exc: Exception) -> str:
    if isinstance(exc, requests.exceptions.ReadTimeout):
        return f"the Docker engine left a call unanswered for {CALL_TIMEOUT_S} s; {_REMEDY}"
    return f"the Docker engine does not answer: {say(exc)}"


def _survey(client: docker.APIClient) -> tuple[Capacity, tuple[str, ...], dict[Network, str]]:
    about = client.info()
    architecture = about.get("Architecture") or platform.machine()
    capacity = Capacity(
        cpu_millicores=int(about["NCPU"]) * 1000,
        memory_mib=int(about["MemTotal"]) // MIB,
        platform=f"{about['OSType']}/{ARCHITECTURES.get(architecture, architecture)}",
    )
    return capacity, unenforced_of(about), ensure_networks(client)

"""The stock of network sandboxes of one engine: made in the background, given out, put away.

What is to be made or removed is decided in `sandboxes.py`. Where no sandbox can be had (the program
was not built, the engine is on another machine) instances start in a network of their own, which
takes longer, and `myxo status` says why.
"""

import os
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import docker
import structlog
import trio
from docker.errors import APIError, ImageNotFound, NotFound
from docker.types import Mount

from allocator.engine.client import remove, say
from allocator.engine.containers import Ownership, joining
from allocator.engine.networks import ensure_networks
from allocator.engine.sandbox_image import PROGRAM, SandboxImage, sandbox_image
from allocator.engine.sandboxes import (
    DIRECTORY,
    HAND_OVER_S,
    Kind,
    Sandbox,
    next_step,
    patience_s,
    sandbox_config,
    sandbox_limits,
    sandbox_of,
    suits,
)
from allocator.errors import LaunchFailed, RuntimeDown
from allocator.runtime import Launch
from overlay.names import SandboxId
from overlay.spec import Network

RETRY_S = 5.0
"""Between attempts where the engine refuses to make one, or is down."""

STOP_S = 0.5
"""How long a stopping allocator gives the engine to remove what was never used; it comes after the
instances, and what is left is removed by the next run."""

MAX_HANDED_OVER = 4096
"""Four times the instances that an allocator can have."""

SOCKET = "proxy"
"""The name of the proxy's socket in the shared directory; the program knows it."""

log = structlog.get_logger()

T = TypeVar("T")


class Call(Protocol):
    """Runs a function with the engine's client in a thread."""

    def __call__(self, function: Callable[[docker.APIClient], T], /) -> Awaitable[T]:
        """Return what `function` does; raises `APIError` and `RuntimeDown`."""
        ...


@dataclass(frozen=True, slots=True)
class SandboxPlan:
    """How an allocator wants its sandboxes.

    Attributes:
        size: how many wait unused for each network; 0 is none at all.
        directory: where the proxy's socket is, shared with every sandbox; None is no hand-over.
        proxy_port: where the proxy is until one of this machine says so.
        program: the static program that they run.
    """

    size: int = 0
    directory: Path | None = None
    proxy_port: int = 4200
    program: Path = PROGRAM


@dataclass(slots=True)
class _Member:
    sandbox: Sandbox
    made: float


@dataclass(slots=True)
class SandboxPool:
    """The sandboxes of one allocator.

    Args:
        ownership: whose they are.
        plan: how many, and of what.
        call: runs a function with the engine's client in a thread.
    """

    ownership: Ownership
    plan: SandboxPlan
    call: Call
    _problem: str = ""
    _unshared: str = ""
    _image: SandboxImage | None = None
    _networks: list[Network] = field(default_factory=lambda: ["outside"])
    _idle: dict[SandboxId, _Member] = field(default_factory=dict)
    _used: dict[SandboxId, _Member] = field(default_factory=dict)
    _making: set[SandboxId] = field(default_factory=set)
    _handed_over: set[SandboxId] = field(default_factory=set)
    _doomed: set[str] = field(default_factory=set)
    _starts: int = 0
    _last_start: float = float("-inf")
    _wake: trio.Event = field(default_factory=trio.Event)
    _stock: trio.Event = field(default_factory=trio.Event)
    _proxy_port: int = field(init=False)

    def __post_init__(self) -> None:
        self._proxy_port = self.plan.proxy_port

    @property
    def known(self) -> Collection[SandboxId]:
        """The sandboxes that are waiting, in use, or being made."""
        return self._idle.keys() | self._used.keys() | self._making

    def set_proxy_port(self, port: int) -> None:
        """Make sandboxes for a proxy at `port` from now on."""
        if port != self._proxy_port:
            self._proxy_port = port
            self._wake_up()

    async def stocked(self) -> None:
        """Wait until there are as many as there are to be."""
        while len(self._idle) < self.plan.size * len(self._networks):
            await self._stock.wait()

    # use

    async def take(self, launch: Launch) -> Sandbox | None:
        """Return an unused sandbox for `launch`, which is used from now on.

        Where the stock is empty one is made now, which costs this start more than a network of its
        own would: the proxy is found on 127.0.0.1 in a sandbox only. None is where there is none
        to be had.

        Raises:
            RuntimeDown: the engine does not answer.
        """
        kind = Kind(launch.spec.network, launch.proxy_port)
        if self._image is None or not suits(kind, launch.spec.port):
            return None
        if kind.network not in self._networks:
            self._networks.append(kind.network)
        self._wake_up()
        for name, member in self._idle.items():
            if member.sandbox.kind == kind:
                self._used[name] = self._idle.pop(name)
                return member.sandbox
        if self._problem:
            return None
        try:
            member = await self._make(kind)
        except (APIError, LaunchFailed) as exc:
            self._say(f"no network sandbox can be made: {say(exc)}")
            return None
        self._used[member.sandbox.id] = member
        return member.sandbox

    @contextmanager
    def start_under_way(self) -> Iterator[None]:
        """Let the stock wait while the block lasts, and some time longer."""
        self._starts += 1
        try:
            yield
        finally:
            self._starts -= 1
            self._last_start = trio.current_time()

    def give_back(self, sandbox: Sandbox) -> None:
        """Take back a sandbox in which nothing was made."""
        self._idle[sandbox.id] = self._used.pop(sandbox.id)

    def adopt(self, sandbox: Sandbox) -> None:
        """Take over a sandbox whose instance was adopted."""
        self._used[sandbox.id] = _Member(sandbox, trio.current_time())

    def discard(self, sandbox: Sandbox) -> None:
        """Have a used sandbox removed in the background."""
        if self._used.pop(sandbox.id, None) is not None:
            self._doomed.add(sandbox.container)
            self._wake_up()

    def forget(self, sandbox: Sandbox) -> None:
        """Take note that a sandbox was removed together with its instance."""
        self._used.pop(sandbox.id, None)

    def ended(self, name: SandboxId) -> None:
        """Take note that a sandbox ended by itself; the instance in a used one ended with it."""
        member = self._idle.pop(name, None)
        if member is not None:
            self._doomed.add(member.sandbox.container)
            self._wake_up()

    def keep_only(self, running: Collection[SandboxId | None]) -> None:
        """Take note that the engine is (back) here, and which sandboxes still run."""
        for name in self._idle.keys() - running:
            self.ended(name)
        self._wake_up()

    # the hand-over to the proxy

    @property
    def socket(self) -> str:
        """Where the proxy is to listen for this machine's sandboxes; empty if it is not."""
        if self.plan.size == 0 or self.plan.directory is None:
            return ""
        return str(self.plan.directory / SOCKET)

    def handed_over(self, name: SandboxId, *, done: bool) -> None:
        """Take note that a proxy has a sandbox's socket, or has it no more.

        It may have it before the engine has said that the sandbox is started.
        """
        if done and len(self._handed_over) < MAX_HANDED_OVER:
            self._handed_over.add(name)
        elif not done:
            self._handed_over.discard(name)

    def is_handed_over(self, sandbox: Sandbox) -> bool:
        """Whether a proxy answers on 127.0.0.1 in `sandbox`."""
        return sandbox.id in self._handed_over

    def status(self) -> dict[str, Any]:
        """Return what `myxo status` shows, as JSON-ready values."""
        members = [*self._idle.values(), *self._used.values()]
        late = trio.current_time() - HAND_OVER_S
        unserved = sum(
            m.sandbox.listens and not self.is_handed_over(m.sandbox) and m.made < late
            for m in members
        )
        problems = [self._problem, self._unshared] if self.plan.size else []
        if unserved:
            problems.append(
                f"{unserved} of {len(members)} network sandboxes have no proxy on 127.0.0.1; "
                "instances reach it at PROXY_IP alone: see the proxy's log"
            )
        return {
            "ready": len(self._idle),
            "wanted": self.plan.size * len(self._networks),
            "in_use": len(self._used),
            "handed_over": sum(self.is_handed_over(m.sandbox) for m in members),
            "problem": "; ".join(p for p in problems if p),
        }

    # the stock

    async def run(self) -> None:
        """Keep the stock until cancelled; what was not used is then removed."""
        self._look_for_program()
        if self._image is None:
            await trio.sleep_forever()
        try:
            while True:
                try:
                    await self._fill_up()
                except RuntimeDown as exc:
                    log.debug("sandbox.engine_down", error=str(exc))
                    await self._wake.wait()  # `keep_only` comes when the engine is back
                except (APIError, LaunchFailed) as exc:
                    self._say(f"no network sandbox can be made: {say(exc)}")
                    await trio.sleep(RETRY_S)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_S):
                await self._remove_idle()

    def _look_for_program(self) -> None:
        plan = self.plan
        host = os.environ.get("DOCKER_HOST", "")
        if plan.size == 0:
            return
        if host and not host.startswith("unix:"):
            self._say("the engine is on another machine, so there are no network sandboxes")
        elif not plan.program.exists():
            self._say(
                f"there are no network sandboxes, as {plan.program} was not built: install a C "
                "compiler and set Myxo up again; until then each start takes some 100 ms longer"
            )
        else:
            self._image = sandbox_image(plan.program.read_bytes())
        if plan.directory is not None:
            _open_to_sandboxes(plan.directory)

    async def _fill_up(self) -> None:
        """Bring the stock to its size, then wait until something has changed."""
        lacking_since = trio.current_time()
        while True:
            self._wake = trio.Event()
            idle = [member.sandbox for member in self._idle.values()]
            step = next_step(idle, self._networks, self._proxy_port, self.plan.size)
            if not self._doomed and not step.remove and step.make is None:
                await self._wake.wait()
                lacking_since = trio.current_time()
                continue
            now = trio.current_time()
            wait_s = patience_s(now, now if self._starts else self._last_start, lacking_since)
            if wait_s > 0:
                await trio.sleep(wait_s)
                continue
            for sandbox in step.remove:
                del self._idle[sandbox.id]
                self._doomed.add(sandbox.container)
            await self._remove_doomed()
            if step.make is not None:
                member = await self._make(step.make)
                self._idle[member.sandbox.id] = member
                self._stock.set()
                self._stock = trio.Event()

    async def _remove_doomed(self) -> None:
        failures: list[APIError | RuntimeDown] = []

        async def remove_one(container: str) -> None:
            try:
                await self.call(partial(remove, name=container))
                self._doomed.discard(container)
            except (APIError, RuntimeDown) as exc:
                failures.append(exc)

        async with trio.open_nursery() as nursery:
            for container in self._doomed:
                nursery.start_soon(remove_one, container)
        if failures:
            raise failures[0]

    async def _make(self, kind: Kind) -> _Member:
        if self._image is None:
            raise LaunchFailed("there is no program for network sandboxes")
        image, name = self._image, SandboxId(secrets.token_hex(6))
        directory = None if self._unshared else self.plan.directory
        self._making.add(name)
        try:
            sandbox = await self.call(
                lambda client: make_sandbox(client, name, kind, image, self.ownership, directory)
            )
        except APIError as exc:
            if directory is None or "mount" not in say(exc):
                raise
            self._unshared = f"the engine cannot share {directory} with sandboxes: {say(exc)}"
            log.warning("sandbox.unshared", problem=self._unshared)
            return await self._make(kind)
        finally:
            self._making.discard(name)
        self._say("")
        return _Member(sandbox, trio.current_time())

    async def _remove_idle(self) -> None:
        self._doomed |= {member.sandbox.container for member in self._idle.values()}
        self._idle.clear()
        try:
            await self._remove_doomed()
        except (APIError, RuntimeDown) as exc:
            log.info("sandbox.not_removed", error=say(exc))

    def _say(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.warning("sandbox.none", problem=problem)
        self._problem = problem

    def _wake_up(self) -> None:
        self._wake.set()


def network_mode(sandbox: Sandbox) -> str:
    """Return the engine's network mode of an instance in `sandbox`."""
    return joining(sandbox.container)


def _open_to_sandboxes(directory: Path) -> None:
    """Make the directory, which sandboxes may search, in one that only this user can enter."""
    directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)


def make_sandbox(
    client: docker.APIClient,
    name: SandboxId,
    kind: Kind,
    image: SandboxImage,
    ownership: Ownership,
    directory: Path | None,
) -> Sandbox:
    """Create and start a sandbox; blocks. Nothing is left of one that does not start.

    Raises:
        APIError: the engine said no.
        LaunchFailed: it ended as it started.
    """
    shared = directory is not None
    config = sandbox_config(name, kind, image.digest, ownership, listens=shared)
    mounts = [Mount(DIRECTORY, str(directory), type="bind", read_only=True)] if shared else []
    limits = client.create_host_config(**sandbox_limits(kind), mounts=mounts)
    try:
        created = client.create_container(**config, host_config=limits)
    except ImageNotFound:
        for _ in client.load_image(image.archive):
            pass
        created = client.create_container(**config, host_config=limits)
    container = str(created["Id"])
    try:
        try:
            client.start(container)
        except NotFound:  # the network was pruned away
            ensure_networks(client)
            client.start(container)
        found = client.inspect_container(container)
    except BaseException:
        remove(client, container)
        raise
    sandbox = sandbox_of(
        {
            "Id": container,
            "Labels": config["labels"],
            "NetworkSettings": found["NetworkSettings"],
            "State": found["State"]["Status"],
        }
    )
    if sandbox is None:
        said = client.logs(container, tail=1).decode(errors="replace").strip()
        remove(client, container)
        raise LaunchFailed(f"the sandbox ended as it started: {said or found['State']['Error']}")
    return sandbox

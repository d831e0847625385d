"""The use-leases that this proxy holds on instances of its own machine.

An instance on this machine is dialled at its own address, past the gateway, so its allocator cannot
see the requests. A lease makes up for that: the allocator stops the instance only after every
holder has said that nothing is in flight there. What was served is reported in the background,
never on the request's path.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import trio
from pydantic import ValidationError

from overlay.control import ControlConnection, open_control
from overlay.errors import MalformedMessage, PeerUnreachable
from overlay.leases import (
    FROM_ALLOCATOR,
    Acquire,
    Granted,
    HandedOver,
    HandOverEnded,
    Hello,
    Occupant,
    Refused,
    Release,
    Released,
    Report,
    Retiring,
    Welcome,
    WhoIsIn,
)
from overlay.names import InstanceId, SandboxId
from proxy.route.caller import Caller

REPORT_PERIOD_S = 0.5
"""How stale the allocator's idea of load and idleness may be; idle times are seconds to hours. That
nothing is in flight any more at an instance it hears at once."""

ACQUIRE_TIMEOUT_S = 2.0
RECONNECT_S = 0.5

log = structlog.get_logger()


@dataclass(slots=True)
class Lease:
    """The right to use one instance directly.

    Attributes:
        address: `host:port` of the instance.
        in_flight: requests that this proxy has there.
        releasing: the allocator wants it back: nothing new may be sent.
        lent: how often another program was told of it, and may send there as well; the lease is
            kept until it was taken back as often.
        elsewhere: requests that it has there.
        recall: called when the allocator wants back what is lent.
        let_go: closes the connections that are kept to the instance. Where the instance ends first,
            the kernel goes on telling the dead address that they are closed, and a container that
            is given the address next cannot be reached for up to a second.
    """

    instance: InstanceId
    address: str
    in_flight: int = 0
    releasing: bool = False
    lent: int = 0
    elsewhere: int = 0
    recall: Callable[[], None] = lambda: None
    served: int = 0
    service_time_s: float = 0.0
    reported: tuple[int, int] = (0, 0)
    let_go: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint


@dataclass(slots=True, eq=False)
class _Question:
    """Who is in a sandbox, and everybody who waits for the answer."""

    caller: Caller | None = None
    answered: trio.Event = field(default_factory=trio.Event)


class LeaseHolder:
    """Holds leases with one allocator while `run` runs.

    Args:
        path: the allocator's control socket.
        hello: how the proxy introduces itself.
        welcomed: called with this and the allocator's word on where containers look for the proxy;
            None for a process that is not to be found by them, and says no hello.

    Attributes:
        occupied: called with a sandbox and the instance in it, whenever the allocator tells.
    """

    def __init__(
        self,
        path: Path,
        hello: Hello,
        welcomed: Callable[["LeaseHolder", Welcome], None] | None,
    ) -> None:
        self._path = path
        self._hello = hello
        self._welcomed = welcomed
        self._connection: ControlConnection | None = None
        self._leases: dict[InstanceId, Lease] = {}
        self._waiting: dict[InstanceId, trio.Event] = {}
        self._questions: dict[SandboxId, _Question] = {}
        self._retiring = False
        self._idle = trio.Event()
        self.occupied: Callable[[SandboxId, Caller], None] = lambda _sandbox, _caller: None

    def get(self, instance: InstanceId) -> Lease | None:
        """Return the usable lease on `instance` that is held already."""
        lease = self._leases.get(instance)
        return None if lease is None or lease.releasing else lease

    async def acquire(self, instance: InstanceId) -> Lease | None:
        """Return a lease on `instance`, or None where the allocator grants none."""
        if instance in self._leases or self._connection is None:
            return self.get(instance)
        waiting = self._waiting.get(instance)
        if waiting is None:
            waiting = self._waiting[instance] = trio.Event()
            await self._ask(self._connection, instance)
        with trio.move_on_after(ACQUIRE_TIMEOUT_S):
            await waiting.wait()
        return self.get(instance)  # what was granted may have been taken back already

    async def tell(self, message: HandedOver | HandOverEnded) -> None:
        """Tell the allocator of a sandbox, if it is there."""
        if self._connection is not None:
            with suppress(PeerUnreachable):
                await self._connection.send(message)

    async def retire(self) -> None:
        """Have the allocator send its sandboxes to another proxy; the leases stay."""
        self._retiring = True
        if self._connection is not None:
            with suppress(PeerUnreachable):
                await self._connection.send(Retiring())

    async def who_is_in(self, sandbox: SandboxId) -> Caller | None:
        """Return the instance in `sandbox`; None where the allocator does not say."""
        if self._connection is None:
            return None
        question = self._questions.get(sandbox)
        if question is None:
            question = self._questions[sandbox] = _Question()
            with suppress(PeerUnreachable):
                await self._connection.send(WhoIsIn(sandbox=sandbox))
        with trio.move_on_after(ACQUIRE_TIMEOUT_S):
            await question.answered.wait()
        self._questions.pop(sandbox, None)
        return question.caller

    def begin(self, lease: Lease) -> None:
        """Count a request that is about to be sent."""
        lease.in_flight += 1

    def ended(self, lease: Lease, service_time_s: float) -> bool:
        """Count a request's end; return whether the lease is to be handed back now."""
        lease.in_flight -= 1
        lease.served += 1
        lease.service_time_s += service_time_s
        if lease.in_flight == 0 and lease.reported[0]:  # others may be kept out by what was said
            self._idle.set()
        return lease.releasing and lease.in_flight == 0 and not lease.lent

    async def end(self, lease: Lease, service_time_s: float) -> None:
        """Count a request's end; hand the lease back if it was asked for and this was the last."""
        if self.ended(lease, service_time_s):
            await self.hand_back(lease)

    async def hand_back(self, lease: Lease) -> None:
        """Give a lease back on which nothing is in flight."""
        with trio.CancelScope(shield=True):  # here only, as a scope costs some 5 µs a request
            await self._hand_back(lease)

    def lend(self, lease: Lease, recall: Callable[[], None]) -> None:
        """Keep a lease until `give_back`: another program sends requests there, too."""
        lease.lent += 1
        lease.recall = recall

    def count(self, lease: Lease, change: int, served: int, service_time_s: float) -> None:
        """Take in how much more that program has under way, and did, than when last called."""
        lease.elsewhere += change
        lease.served += served
        lease.service_time_s += service_time_s

    async def give_back(self, lease: Lease) -> None:
        """Take in that it sends nothing there any more."""
        lease.lent -= 1
        if lease.releasing and lease.in_flight == 0 and not lease.lent:
            await self._hand_back(lease)

    async def run(self) -> None:
        """Stay connected to the allocator until cancelled."""
        while True:
            try:
                async with open_control(self._path, "lease") as connection:
                    await self._serve(connection)
            except* (PeerUnreachable, MalformedMessage, ValidationError) as group:
                log.debug("lease.disconnected", path=str(self._path), error=str(group.exceptions))
            finally:
                self._disconnected()
            await trio.sleep(RECONNECT_S)

    async def _serve(self, connection: ControlConnection) -> None:
        if self._welcomed is not None:
            await connection.send(self._hello)
        if self._retiring:
            await connection.send(Retiring())
        self._connection = connection
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report, connection)
            while (line := await connection.receive()) is not None:
                match FROM_ALLOCATOR.validate_json(line):
                    case Welcome() as welcome:
                        if self._welcomed is not None:
                            self._welcomed(self, welcome)
                    case Granted(instance=instance, address=address):
                        self._answer(instance, Lease(instance, address))
                    case Refused(instance=instance):
                        self._answer(instance, None)
                    case Release(instance=instance):
                        await self._release(instance)
                    case Occupant() as occupant:
                        self._answer_who(occupant)
            nursery.cancel_scope.cancel()

    async def _ask(self, connection: ControlConnection, instance: InstanceId) -> None:
        asked = False
        try:
            await connection.send(Acquire(instance=instance))
            asked = True
        except PeerUnreachable:
            return
        finally:
            if not asked:
                self._answer(instance, None)

    def _disconnected(self) -> None:
        """Void every lease: the allocator took their ends from the connection's."""
        self._connection = None
        for lease in self._leases.values():
            lease.releasing = True
            lease.recall()
        self._leases.clear()
        for instance in list(self._waiting):
            self._answer(instance, None)
        for question in self._questions.values():
            question.answered.set()

    def _answer(self, instance: InstanceId, lease: Lease | None) -> None:
        if lease is not None:
            self._leases.setdefault(instance, lease)
        waiting = self._waiting.pop(instance, None)
        if waiting is not None:
            waiting.set()

    def _answer_who(self, occupant: Occupant) -> None:
        caller = None
        if occupant.service is not None and occupant.instance is not None:
            caller = Caller(occupant.service, occupant.instance)
            self.occupied(occupant.sandbox, caller)
        question = self._questions.get(occupant.sandbox)
        if question is not None:
            question.caller = caller
            question.answered.set()

    async def _release(self, instance: InstanceId) -> None:
        lease = self._leases.get(instance)
        if lease is None:
            if self._connection is not None:
                await self._connection.send(Released(instance=instance))
            return
        lease.releasing = True
        lease.recall()
        if lease.in_flight == 0 and not lease.lent:
            await self._hand_back(lease)

    async def _hand_back(self, lease: Lease) -> None:
        await lease.let_go()
        if self._leases.get(lease.instance) is not lease or self._connection is None:
            return
        del self._leases[lease.instance]
        try:
            await self._connection.send(_report_of(lease), Released(instance=lease.instance))
        except PeerUnreachable:
            return

    async def _report(self, connection: ControlConnection) -> None:
        while True:
            with trio.move_on_after(REPORT_PERIOD_S):
                await self._idle.wait()
            self._idle = trio.Event()
            for lease in list(self._leases.values()):
                now = lease.in_flight + lease.elsewhere, lease.served
                if now != lease.reported:
                    report = _report_of(lease)
                    lease.served, lease.service_time_s = 0, 0.0
                    lease.reported = report.in_flight, 0
                    await connection.send(report)


def _report_of(lease: Lease) -> Report:
    return Report(
        instance=lease.instance,
        in_flight=lease.in_flight + lease.elsewhere,
        served=lease.served,
        service_time_s=lease.service_time_s,
    )

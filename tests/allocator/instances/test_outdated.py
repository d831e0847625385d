from dataclasses import dataclass, field
from typing import Any, cast

import trio
import trio.testing

from allocator.instances.instances import Instances
from allocator.instances.outdated import Outdated
from overlay.definitions import Definitions, LookupsBusy, UnknownService
from overlay.identity import Identity
from overlay.names import ServiceName
from overlay.revision import Revision, SignedRevision
from overlay.spec import ServiceSpec

ALICE = Identity.from_seed(b"a" * 32)
HELLO, GONE = ServiceName("hello"), ServiceName("gone")


@dataclass
class Running:
    """What runs, and what was told to go."""

    names: set[ServiceName]
    drained: list[tuple[ServiceName, int | None]] = field(default_factory=list)
    adjusted: list[tuple[ServiceName, int, ServiceSpec]] = field(default_factory=list)

    def services(self) -> set[ServiceName]:
        return self.names

    def drain_outdated(self, service: ServiceName, newest: int | None) -> None:
        self.drained.append((service, newest))

    def adjust(self, service: ServiceName, generation: int, spec: ServiceSpec) -> None:
        self.adjusted.append((service, generation, spec))


@dataclass
class Known:
    """What is known of services; a registry that may be too busy."""

    newest: dict[ServiceName, SignedRevision] = field(default_factory=dict)
    tombs: set[ServiceName] = field(default_factory=set)
    busy: int = 0
    asked: list[ServiceName] = field(default_factory=list)
    live: bool = True
    change: trio.Event = field(default_factory=trio.Event)

    def get(self, name: ServiceName) -> SignedRevision | None:
        return self.newest.get(name)

    def deleted(self, name: ServiceName) -> bool:
        return name in self.tombs

    async def changed(self) -> None:
        await self.change.wait()

    def signal(self) -> None:
        self.change.set()
        self.change = trio.Event()

    async def resolve(self, name: ServiceName, *, ask_again: bool) -> SignedRevision:
        assert ask_again
        self.asked.append(name)
        await trio.sleep(0.01)
        if self.busy:
            self.busy -= 1
            raise LookupsBusy(name, 0.5)
        raise UnknownService(name, ())


def follow(nursery: trio.Nursery, running: Running, known: Known) -> None:
    outdated = Outdated(cast("Instances", running), cast("Definitions", known))
    nursery.start_soon(outdated.run)


SPEC = ServiceSpec(process="true", max_instances=2)


def revision(number: int, takes_over: int = 0) -> SignedRevision:
    made = Revision(name=HELLO, number=number, spec=SPEC, takes_over=takes_over)
    return SignedRevision.sign(ALICE, made)


async def test_older_revisions_go(nursery: trio.Nursery, autojump_clock: Any) -> None:
    running, known = Running({HELLO}), Known({HELLO: revision(3)})
    follow(nursery, running, known)
    await trio.testing.wait_all_tasks_blocked()
    assert running.drained == [(HELLO, 3)]
    nursery.cancel_scope.cancel()


async def test_what_a_revision_takes_over_is_adjusted_and_does_not_go(
    nursery: trio.Nursery, autojump_clock: Any
) -> None:
    running, known = Running({HELLO}), Known({HELLO: revision(3, takes_over=2)})
    follow(nursery, running, known)
    await trio.testing.wait_all_tasks_blocked()
    assert running.drained == [(HELLO, 2)]
    assert running.adjusted == [(HELLO, 2, SPEC)]
    nursery.cancel_scope.cancel()


async def test_what_its_owner_deleted_goes_without_a_question(
    nursery: trio.Nursery, autojump_clock: Any
) -> None:
    running, known = Running({GONE}), Known(tombs={GONE})
    follow(nursery, running, known)
    await trio.testing.wait_all_tasks_blocked()
    assert running.drained == [(GONE, None)]
    assert known.asked == []
    nursery.cancel_scope.cancel()


async def test_where_too_much_is_asked_the_question_is_repeated_until_it_is_answered(
    nursery: trio.Nursery, autojump_clock: Any
) -> None:
    running, known = Running({GONE}), Known(busy=3)
    follow(nursery, running, known)
    await trio.sleep(10)
    assert running.drained == [(GONE, None)]
    assert known.asked == [GONE] * 4
    nursery.cancel_scope.cancel()


async def test_many_changes_ask_for_a_service_once(
    nursery: trio.Nursery, autojump_clock: Any
) -> None:
    running, known = Running({GONE}), Known()
    follow(nursery, running, known)
    for _ in range(5):
        await trio.testing.wait_all_tasks_blocked()
        known.signal()
    await trio.sleep(1)
    assert known.asked == [GONE]
    nursery.cancel_scope.cancel()

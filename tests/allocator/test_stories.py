"""Random stories of a machine: whatever happens in whatever order, nobody's request is cut.

A story is a list of things that happen, one after the other, to the real `Instances` on a machine
in memory, in virtual time: requests by the gateway and by leases, idle times, revisions that
change, crashes, an engine that goes away. What must never happen is checked by the machine itself.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from allocator.errors import AllocatorError, InstanceGone
from allocator.instances.instances import Instances
from allocator.rules.admission import Limits
from allocator.rules.standby import Bounds
from allocator.runtime import Launch
from allocator.testing import FakeMachine, FakeRuntime, open_fake_machine
from allocator.testing_instances import Lab, id_of, revision
from overlay.names import InstanceId, ServiceName
from overlay.records import Room
from overlay.revision import SignedRevision

REPORT_S = 0.5
"""How late a proxy reports what it has in flight, as the real one."""

LIMITS = Limits(cpu_millicores=2000, memory_mib=600, instances=5)
NAMES = ("one", "two")


@dataclass
class Truth:
    """What really is in flight where, which the allocator hears of only in part."""

    in_flight: Counter[InstanceId] = field(default_factory=Counter)
    starting: Counter[tuple[ServiceName, int]] = field(default_factory=Counter)
    stopping: bool = False
    wrongs: list[str] = field(default_factory=list)


class Watched(FakeRuntime):
    """A runtime that notes what must not happen."""

    def __init__(self, truth: Truth, machine: FakeMachine) -> None:
        super().__init__(machine)
        self._truth = truth
        self._watched = machine

    async def create(self, launch: Launch) -> None:
        key = launch.service, launch.revision
        self._truth.starting[key] += 1
        if self._truth.starting[key] > 1:
            self._truth.wrongs.append(f"{key} is started twice at once")
        try:
            await super().create(launch)
        except BaseException:
            self._truth.starting[key] -= 1
            raise

    async def start(self, instance: InstanceId) -> str:
        launch = self._watched.instances[instance].launch
        try:
            return await super().start(instance)
        finally:
            self._truth.starting[launch.service, launch.revision] -= 1

    async def pause(self, instance: InstanceId) -> None:
        self._check(instance)
        await super().pause(instance)
        self._check_idle(instance, "paused")

    async def remove(self, instance: InstanceId, *, grace_s: float) -> None:
        found = self._watched.instances.get(instance)
        if found is not None and not found.ended.is_set() and not self._truth.stopping:
            self._check_idle(instance, "removed")
        await super().remove(instance, grace_s=grace_s)

    def _check(self, instance: InstanceId | None = None) -> None:
        super()._check()
        if instance is not None:
            self._check_idle(instance, "about to be paused")

    def _check_idle(self, instance: InstanceId, what: str) -> None:
        if self._truth.in_flight[instance]:
            self._truth.wrongs.append(f"{instance} was {what} with a request in flight")


class Proxy:
    """A proxy of the same machine: it holds leases, reports late, and releases when it can."""

    def __init__(self, instances: Instances, truth: Truth) -> None:
        self.instances = instances
        self.truth = truth
        self.mine: Counter[InstanceId] = Counter()
        self.releasing: set[InstanceId] = set()
        self.held: set[InstanceId] = set()

    def release(self, instance: InstanceId) -> None:
        self.releasing.add(instance)
        if not self.mine[instance]:
            self.give_back(instance)

    def give_back(self, instance: InstanceId) -> None:
        self.held.discard(instance)
        self.releasing.discard(instance)
        self.instances.use.released(instance, self)

    async def request(self, instance: InstanceId, hold_s: float) -> None:
        if instance not in self.held:
            self.instances.use.lease(instance, self)
            self.held.add(instance)
        if instance in self.releasing:
            raise InstanceGone("it is asked back")
        self.mine[instance] += 1
        try:
            await serve(self.truth, instance, hold_s)
        finally:
            self.mine[instance] -= 1
            if instance in self.releasing and not self.mine[instance]:
                self.give_back(instance)

    async def report(self) -> None:
        while True:
            await trio.sleep(REPORT_S)
            for instance in list(self.held):
                self.instances.use.report(instance, self, self.mine[instance], served=0)


async def serve(truth: Truth, instance: InstanceId, hold_s: float) -> None:
    truth.in_flight[instance] += 1
    try:
        await trio.sleep(hold_s)
    finally:
        truth.in_flight[instance] -= 1


@dataclass
class Teller:
    """Acts a story out."""

    lab: Lab
    truth: Truth
    instances: Instances
    proxy: Proxy
    nursery: trio.Nursery
    numbers: Counter[str] = field(default_factory=Counter)

    def given(self, name: str) -> SignedRevision:
        return revision(
            1 + self.numbers[name],
            name,
            concurrency=2,
            cpu_millicores=400,
            memory_mib=100,
            idle_pause_s=2,
            idle_stop_s=20,
        )

    async def ask(self, name: str, hold_s: float, direct: bool) -> None:
        """Ask as proxies do: an instance that turns out to be gone is not the last attempt."""
        for _ in range(4):
            try:
                found = id_of(await self.instances.allocate(self.given(name)))
                if direct:
                    await self.proxy.request(found, hold_s)
                else:
                    await self.by_gateway(found, hold_s)
            except InstanceGone:
                continue
            except AllocatorError:
                return
            return

    async def by_gateway(self, instance: InstanceId, hold_s: float) -> None:
        if self.instances.use.rests(instance):
            await self.instances.awake(instance)
        with self.instances.use.request(instance):
            if self.lab.machine.instances[instance].paused:
                self.truth.wrongs.append(f"{instance} is offered while it is paused")
            await serve(self.truth, instance, hold_s)

    def stale(self, hold_s: float, nth: int) -> None:
        """A request comes to an instance that its sender holds for ready."""
        known = list(self.lab.machine.instances)
        if known:
            self.nursery.start_soon(self.try_gateway, known[nth % len(known)], hold_s)

    async def try_gateway(self, instance: InstanceId, hold_s: float) -> None:
        try:
            await self.by_gateway(instance, hold_s)
        except InstanceGone:
            return

    def crash(self, nth: int) -> None:
        known = [i for i in self.lab.machine.instances.values() if i.started]
        if known:
            known[nth % len(known)].crash()

    def revise(self, name: str) -> None:
        self.numbers[name] += 1
        self.instances.drain_outdated(ServiceName(name), 1 + self.numbers[name])

    async def until(self, state: str) -> None:
        """Wait for the moments at which things can go wrong, if they come."""
        end = trio.current_time() + 8
        while trio.current_time() < end:
            if any(i["state"] == state for i in self.instances.status()["own_instances"]):
                return
            await trio.sleep(0.04)

    async def engine_away(self, seconds: float) -> None:
        self.lab.machine.problem = "no engine answers"
        await trio.sleep(seconds)
        self.lab.machine.problem = ""


asks = st.builds(
    lambda name, hold, direct: ("ask", name, hold, direct),
    st.sampled_from(NAMES),
    st.sampled_from([0.0, 0.1, 1.0, 5.0, 40.0]),
    st.booleans(),
)
happenings = st.one_of(
    asks,
    asks,
    st.builds(lambda s: ("sleep", s), st.sampled_from([0.01, 0.5, 1.9, 2.0, 2.001, 3.0, 19.0])),
    st.builds(lambda s: ("until", s), st.sampled_from(["starting", "pausing", "paused"])),
    st.builds(lambda s: ("until", s), st.sampled_from(["pausing", "resuming", "draining"])),
    st.builds(lambda n, h: ("stale", h, n), st.integers(0, 4), st.sampled_from([0.1, 3.0])),
    st.builds(lambda n: ("crash", n), st.integers(0, 4)),
    st.builds(lambda n: ("revise", n), st.sampled_from(NAMES)),
    st.builds(lambda s: ("engine_away", s), st.sampled_from([0.5, 5.0])),
)


async def act(story: list[tuple[Any, ...]], speed: float, *, impatient: bool) -> Truth:
    truth = Truth()
    async with open_fake_machine(listens=False) as machine:
        machine.create_s = machine.start_s = machine.pause_s = machine.resume_s = speed
        lab = Lab(machine, limits=LIMITS, standby=Bounds(memory_mib=20, instances=3))
        lab.runtime = partial(Watched, truth)
        async with trio.open_nursery() as nursery:
            async with lab.open() as instances:
                proxy = Proxy(instances, truth)
                nursery.start_soon(proxy.report)
                teller = Teller(lab, truth, instances, proxy, nursery)
                for what, *arguments in story:
                    if what == "ask":
                        nursery.start_soon(teller.ask, *arguments)
                    elif what == "sleep":
                        await trio.sleep(*arguments)
                    elif what in {"engine_away", "until"}:
                        await getattr(teller, str(what))(*arguments)
                    else:
                        getattr(teller, str(what))(*arguments)
                    check_promises(lab, instances)
                if not impatient:
                    await trio.sleep(200)
                    check_rest(lab, truth)
                truth.stopping = True
                stopped_at = trio.current_time()
            assert trio.current_time() - stopped_at <= 5
            nursery.cancel_scope.cancel()
        check_end(lab)
        if machine.instances:  # an engine that was away kept them; the next allocator takes them
            async with lab.open():
                await trio.sleep(0.1)
        assert not machine.instances
    return truth


def check_promises(lab: Lab, instances: Instances) -> None:
    """Whatever runs has its promise in the ledger."""
    rows = instances.status()["own_instances"]
    running = [i for i in rows if i["state"] in {"starting", "ready", "pausing", "resuming"}]
    promised = LIMITS.cpu_millicores - lab.ledger.room().cpu_millicores
    assert sum(i["cpu_millicores"] for i in running) <= promised


def check_rest(lab: Lab, truth: Truth) -> None:
    """After a long silence all requests are answered, and everything has been put away."""
    assert not +truth.in_flight
    assert not lab.machine.instances


def check_end(lab: Lab) -> None:
    assert lab.ledger.room() == Room(
        cpu_millicores=LIMITS.cpu_millicores,
        memory_mib=LIMITS.memory_mib,
        instances=LIMITS.instances,
    )
    assert lab.ledger.resting_mib() == 0
    last = dict(lab.publisher.said)
    assert set(last.values()) <= {None}
    value = lab.registry.get_sample_value
    assert value("myxo_allocator_in_flight_requests") == 0
    for state in ("starting", "ready", "pausing", "paused", "resuming", "draining"):
        assert not value("myxo_allocator_instances", {"state": state})


ASKED_WHILE_FREEZING = [
    *(("ask", "one", 0.0, False), ("until", "pausing"), ("ask", "one", 5.0, True)),
    *(("sleep", 3.0), ("sleep", 0.5)),
]
SENT_BUT_NOT_REPORTED = [
    *(("ask", "one", 0.0, True), ("sleep", 2.0), ("ask", "one", 5.0, True)),
    *(("sleep", 0.01), ("ask", "one", 40.0, True)),
]


@settings(max_examples=150, deadline=None)
@example(ASKED_WHILE_FREEZING, 1.5, False)
@example(SENT_BUT_NOT_REPORTED, 0.0, False)
@given(st.lists(happenings, max_size=25), st.sampled_from([0.0, 0.05, 1.5]), st.booleans())
def test_no_request_is_cut_nothing_starts_twice_and_everything_ends_in_order(
    story: list[tuple[Any, ...]], speed: float, impatient: bool
) -> None:
    truth = trio.run(
        partial(act, story, speed, impatient=impatient),
        clock=MockClock(autojump_threshold=0),
    )
    assert truth.wrongs == []

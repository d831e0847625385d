"""What must hold before an instance is there: the checks in their order, then the promise."""

import secrets
from collections.abc import Callable, Mapping

import trio

from allocator.errors import Refused, RuntimeDown
from allocator.instances.crashes import CrashGuard
from allocator.instances.instance import Instance
from allocator.instances.lifecycle import State
from allocator.rules.admission import (
    Decision,
    Ledger,
    Policy,
    Refusal,
    check_platform,
    check_revision,
    check_runnable,
)
from allocator.runtime import Running, Runtime
from overlay.allocation import AllocationRefusal
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.revision import SignedRevision
from overlay.spec import ServiceSpec


class Arrivals:
    """Lets instances in, and paused ones back.

    Args:
        instances: what is here; read at each call.
        runtimes: by name.
        ledger: what is promised to whom.
        policy: what may run here.
        crashes: what failed lately.
        known: returns the newest revision of a name that this machine has heard of.
        elsewhere: returns how many instances of a service other machines have.
        pausable_at: when a new instance may be paused at the earliest.
    """

    def __init__(
        self,
        instances: Mapping[InstanceId, Instance],
        runtimes: Mapping[str, Runtime],
        ledger: Ledger,
        policy: Policy,
        crashes: CrashGuard,
        *,
        known: Callable[[ServiceName], SignedRevision | None],
        elsewhere: Callable[[ServiceName], int],
        pausable_at: float,
    ) -> None:
        self._instances = instances
        self._runtimes = runtimes
        self._ledger = ledger
        self._policy = policy
        self._crashes = crashes
        self._known = known
        self._elsewhere = elsewhere
        self._pausable_at = pausable_at

    def checked(self, given: SignedRevision, caller: PeerId | None) -> ServiceSpec:
        """Return what to run for `given` if it is true, and `caller` may have it run here.

        Raises:
            Refused: why not.
        """
        revision = given.revision
        _insist(check_revision(given, self._known(revision.name)))
        spec = revision.spec
        if spec is None:
            raise Refused(AllocationRefusal.BAD_REVISION, f"{revision.name} is deleted")
        _insist(check_runnable(spec))
        _insist(self._policy.decide(given.owner, spec, caller))
        return spec

    def admit(self, given: SignedRevision, spec: ServiceSpec) -> Instance:
        """Return a new instance of `given` that has its room promised.

        Raises:
            Refused: it may not start now.
            RuntimeDown: its runtime does not answer.
        """
        revision, now = given.revision, trio.current_time()
        runtime = self._runtime(spec)
        _insist(check_platform(spec, runtime.capacity()))
        if (reason := self._crashes.refusal((revision.name, revision.generation), now)) is not None:
            raise Refused(AllocationRefusal.FAILED, reason)
        self._check_max_instances(revision.name, spec)
        instance = Instance(
            id=InstanceId(secrets.token_hex(6)),
            service=revision.name,
            revision=revision.generation,
            author=given.owner,
            spec=spec,
            runtime=runtime,
            last_active=now,
            pausable_at=self._pausable_at,
        )
        _insist(self._ledger.room_for(given.owner, spec))
        _insist(self._policy.pace(given.owner, now))
        _insist(self._ledger.reserve(instance.id, given.owner, spec))
        return instance

    def readmit(self, instance: Instance) -> None:
        """Promise a paused instance its room again.

        Raises:
            Refused: there is none.
        """
        _insist(self._ledger.wake(instance.id, instance.author, instance.spec))

    def adopted(self, found: Running, runtime: Runtime) -> Instance:
        """Return an instance of an earlier run; it has its room, whether there is any or not."""
        now = trio.current_time()
        self._ledger.hold(found.id, found.author, found.spec)
        return Instance(
            id=found.id,
            service=found.service,
            revision=found.revision,
            author=found.author,
            spec=found.spec,
            runtime=runtime,
            last_active=now,
            address=found.address,
            paused_at=now,
            pausable_at=self._pausable_at,
        )

    def _runtime(self, spec: ServiceSpec) -> Runtime:
        runtime = self._runtimes.get(spec.runtime)
        if runtime is None:
            raise Refused(
                AllocationRefusal.RUNTIME_MISSING, f"there is no {spec.runtime} runtime here"
            )
        if not runtime.health().usable:
            raise RuntimeDown(runtime.health().problem)
        return runtime

    def _check_max_instances(self, service: ServiceName, spec: ServiceSpec) -> None:
        if not spec.max_instances:
            return
        here = sum(
            i.service == service and i.state is not State.DRAINING for i in self._instances.values()
        )
        if here + self._elsewhere(service) >= spec.max_instances:
            raise Refused(
                AllocationRefusal.NO_ROOM,
                f"{service} has its {spec.max_instances} instances already (max_instances)",
            )


def _insist(decision: Decision) -> None:
    if isinstance(decision, Refusal):
        raise Refused(decision.code, decision.text)

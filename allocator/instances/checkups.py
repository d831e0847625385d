"""Whether ready instances stay well: `health` asked again and again, and what follows from it.

    well ── health_failures checks in a row fail ──► unwell: requests avoid it while another can
      ▲                                                │     answer; its record says so
      └───────────── one check succeeds ───────────────┤
                                                       └── as many fail again ──► replaced

A program that hangs accepts connections and answers nothing, so only its own answer says that it is
well. An instance that is replaced is drained like any other, but not for ever: what it hangs on
would never end. Paused instances are not asked: they cannot answer.

`Checkup` is pure; `Checkups` asks.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto

import structlog
import trio

from allocator.instances.instance import Instance
from allocator.instances.lifecycle import State
from allocator.instances.readiness import Question, question_to
from allocator.instances.register import Register
from allocator.instances.resting import Why
from overlay.records import InstanceState

Check = Callable[[str, Question], Awaitable[bool]]
"""Asks an address for a path; whether it answered well, in bounded time."""

log = structlog.get_logger()


class Finding(Enum):
    """What a check shows that was not known before."""

    WELL = auto()
    UNWELL = auto()
    LOST = auto()


@dataclass(slots=True)
class Checkup:
    """The checks of one instance.

    Attributes:
        failures: in a row, that make it unwell; twice as many lose it.
        row: of them, lately.
    """

    failures: int
    row: int = 0

    def checked(self, *, answered: bool) -> Finding | None:
        """Take in a check; return what is new."""
        before, self.row = self.row, 0 if answered else self.row + 1
        if answered:
            return Finding.WELL if before >= self.failures else None
        if self.row == self.failures:
            return Finding.UNWELL
        return Finding.LOST if self.row == 2 * self.failures else None


class Checkups:
    """Checks the instances of a machine.

    Args:
        register: is told what was found.
        check: asks an instance.
    """

    def __init__(self, register: Register, check: Check) -> None:
        self._register = register
        self._check = check

    async def watch(self, instance: Instance) -> None:
        """Check an instance until it is lost, or cancelled; at once over if it has no `health`."""
        question, interval_s = question_to(instance.spec), instance.spec.health_interval_s
        if question is None or not interval_s:
            return
        checkup = Checkup(instance.spec.health_failures)
        finding: Finding | None = None
        while finding is not Finding.LOST:
            await trio.sleep(interval_s)
            if instance.state is not State.READY:
                continue
            answered = await self._check(instance.address, question)
            if instance.state is not State.READY:
                continue  # it was paused meanwhile, which is no fault of its own
            finding = checkup.checked(answered=answered)
            if finding is not None:
                self._found(instance, finding)

    def _found(self, instance: Instance, finding: Finding) -> None:
        log.warning("instance.health", id=instance.id, service=instance.service, is_=finding.name)
        if finding is Finding.LOST:
            instance.unwanted = instance.unwanted or Why.UNHEALTHY
            instance.notify()
        else:
            instance.healthy = finding is Finding.WELL
            self._register.publish(instance, InstanceState.READY)

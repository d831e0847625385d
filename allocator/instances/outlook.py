"""What this machine has of one service this moment, as an offer tells it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from allocator.instances.instance import Instance
from allocator.instances.lifecycle import COMING, RESTING, State
from overlay.names import ServiceName


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a start would meet.

    Attributes:
        ready: an instance with room is there.
        starting: one is on its way.
        resume_s: until a paused one would answer, in seconds; None: there is none.
        ahead: instances of all services that are on their way here.
    """

    ready: bool
    starting: bool
    resume_s: float | None
    ahead: int


def outlook(
    instances: Iterable[Instance], service: ServiceName, revision: int, resume_s: float
) -> Outlook:
    """Return what `instances`, all of a machine, have of a service; resuming takes `resume_s`."""
    everything = list(instances)
    mine = [i for i in everything if i.key == (service, revision) and not i.unwanted]
    rests = any(i.state in RESTING for i in mine)
    return Outlook(
        ready=any(i.state is State.READY and i.load < i.spec.concurrency for i in mine),
        starting=any(i.state in COMING for i in mine),
        resume_s=resume_s if rests else None,
        ahead=sum(i.state in COMING for i in everything),
    )

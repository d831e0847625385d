"""Who asks: an instance of this machine, where its network says so."""

from dataclasses import dataclass

from overlay.names import InstanceId, ServiceName


@dataclass(frozen=True, slots=True)
class Caller:
    """The instance whose own network a client's connection comes from.

    It is for decisions of this proxy alone; nothing of it goes into what is forwarded or answered.
    """

    service: ServiceName
    instance: InstanceId

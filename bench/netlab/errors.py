"""What can go wrong with a lab, by what the caller can do next."""

from overlay.errors import MyxoError, SettingsInvalid


class LabFailed(MyxoError):
    """The lab, or a part of it, could not be made or did not do what was asked of it."""


class NotRoot(LabFailed):
    """Namespaces and TUN devices need root."""

    def __init__(self) -> None:
        super().__init__("a lab needs root, for its namespaces and devices; run this with sudo")


class LabNotUp(LabFailed):
    """There is no lab of this name in the background."""


class RouterGone(LabFailed):
    """No router answers on the socket, or it ended before it answered; the lab has ended."""


class RouterRefused(LabFailed):
    """The router did not do what it was asked to; the text says why."""


class CommandFailed(LabFailed):
    """A command on a host failed, or did not end in time; what it printed is in the message."""


class PlanInvalid(SettingsInvalid):
    """The plan of a lab holds something that cannot be used; nothing was made."""


class UnknownHost(SettingsInvalid):
    """The lab has no host of this name."""

"""What can go wrong while an instance is started or used, by what the caller can do next."""

from overlay.allocation import AllocationRefusal
from overlay.errors import MyxoError


class AllocatorError(MyxoError):
    """Root of the allocator's errors.

    Attributes:
        code: what the caller of the allocate call hears.
        log: the last lines that the instance wrote, if it ever ran.
    """

    code = AllocationRefusal.FAILED

    def __init__(self, text: str, *, log: str = "") -> None:
        self.log = log
        super().__init__(text)


class Refused(AllocatorError):
    """The allocator's rules or its room do not let this instance start here; another one may."""

    def __init__(self, code: AllocationRefusal, text: str) -> None:
        self.code = code
        super().__init__(text)


class RuntimeDown(AllocatorError):
    """The container engine does not answer, or lets this user not in; it may come back."""

    code = AllocationRefusal.RUNTIME_MISSING


class ImageMissing(AllocatorError):
    """The image is not on this machine and could not be fetched."""

    code = AllocationRefusal.IMAGE_MISSING


class LaunchFailed(AllocatorError):
    """The runtime could not create or start the instance; the text is the runtime's own."""


class Unpausable(AllocatorError):
    """The runtime cannot pause this instance; it runs on, and can be stopped instead."""


class Unmeasured(AllocatorError):
    """Nobody can say what this instance uses; it may be gone."""


class NotReady(AllocatorError):
    """The instance runs, but did not accept connections in the time that its spec gives."""

    code = AllocationRefusal.NOT_READY


class Exited(AllocatorError):
    """The instance ended by itself.

    Attributes:
        exit_code: None where it cannot be known.
        oom_killed: it was ended for using more memory than its limit.
    """

    def __init__(
        self, text: str, *, exit_code: int | None, oom_killed: bool = False, log: str = ""
    ) -> None:
        self.exit_code = exit_code
        self.oom_killed = oom_killed
        super().__init__(text, log=log)


class InstanceGone(AllocatorError):
    """The instance is not there, not ready yet, or about to stop; use another one."""

    code = AllocationRefusal.DRAINING

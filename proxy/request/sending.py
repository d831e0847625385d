"""How one attempt to have a request answered is made, and how it may fail."""

from collections.abc import Callable
from typing import Protocol

from overlay.errors import PeerUnreachable
from overlay.http.errors import UpstreamFailed
from overlay.http.exchange import Exchanged
from overlay.view import InstanceView


class GoneFromGateway(Exception):
    """The gateway says that the instance is not there any more; nothing was processed."""

    def __str__(self) -> str:
        return "its machine says that it is gone"


class Unwanted(Exception):
    """The instance answered with a status for which the service wants another one to be asked."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"it answered {status}")


LOST = (GoneFromGateway, PeerUnreachable, UpstreamFailed, Unwanted)
"""What an attempt may end with while the client is still unanswered."""


class Send(Protocol):
    """Forwards the request to an instance."""

    async def __call__(
        self,
        instance: InstanceView,
        deadline: float,
        *,
        fresh: bool,
        watched: bool,
        begins: Callable[[int], None] | None,
    ) -> Exchanged:
        """Forward it.

        Args:
            instance: whom to ask.
            deadline: when the answer must be complete, on trio's clock.
            fresh: do not use a connection that was used before.
            watched: somebody else looks whether the client leaves.
            begins: called with the status when the answer is there; may raise to keep it from the
                client.
        """
        ...

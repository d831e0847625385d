"""What a load host's machine is and does, measured when it is asked for."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from bench.lab.extra import needing_extra
from bench.lab.hosts.messages import Measured

if TYPE_CHECKING:
    from bench.lab.experiments.recording import ThisNode


class Machine:
    """This machine; made by `open_machine`."""

    def __init__(self, name: str, stack: AsyncExitStack) -> None:
        self._name = name
        self._stack = stack
        self._node: ThisNode | None = None

    async def measure(self, now: float, *, facts: bool) -> Measured:
        """Return what it does now, and with `facts` what it is.

        Raises:
            ExtraLacks: what measures it is not installed.
        """
        if self._node is None:
            with needing_extra():  # not every load host is measured, and this is slow to import
                from bench.lab.experiments.recording import open_this_node  # noqa: PLC0415
            self._node = await self._stack.enter_async_context(open_this_node(self._name))
        return Measured(
            rows=tuple(await self._node.sample(now)),
            facts=tuple(await self._node.facts()) if facts else (),
        )


@asynccontextmanager
async def open_machine(name: str) -> AsyncIterator[Machine]:
    """Yield this machine, called by this name in what is measured."""
    async with AsyncExitStack() as stack:
        yield Machine(name, stack)

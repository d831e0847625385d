"""Signals to all processes of an instance: stopped, continued, ended as a whole."""

import os
import signal

import trio

from allocator.errors import Unpausable
from allocator.processes.entry import Process
from allocator.processes.procfs import ProcessKey, is_stopped, signal_each, tell_each
from allocator.processes.table import ProcessTable
from overlay.names import InstanceId

STOP_LOOKS = 100
STOP_LOOK_S = 0.001
"""A process stops as it leaves the kernel; one that waits for a disk may take some time to."""


class Signals:
    """Finds an instance's processes and signals them."""

    def __init__(self) -> None:
        self._table = ProcessTable()

    async def members(self, process: Process) -> list[ProcessKey]:
        """Return the processes of an instance that runs."""
        return await self._table.members(process.launch.id, process.launch.pid)

    async def stop_all(self, process: Process) -> None:
        """Stop every process of the instance by a signal.

        A stop takes effect a moment after the signal, and until then a process may start another
        one. So whoever is found running is signalled again until a look finds all stopped; then
        nobody is left to start anything.

        Raises:
            Unpausable: one does not stop; all of them run on.
        """
        for _ in range(STOP_LOOKS):
            found = await self.members(process)
            running = [key for key in found if not is_stopped(key)]
            if not running:
                process.stopped = tuple(found)
                return
            tell_each(running, signal.SIGSTOP)
            await trio.sleep(STOP_LOOK_S)
        tell_each(await self.members(process), signal.SIGCONT)
        raise Unpausable(f"a process of {process.launch.id} does not stop")

    async def still_stopped(self, process: Process) -> tuple[ProcessKey, ...]:
        """Return an adopted instance's processes if it is paused; end a pause that was cut."""
        found = tuple(await self.members(process))
        if all(is_stopped(key) for key in found):
            return found
        tell_each(found, signal.SIGCONT)
        return ()

    async def ask_to_end(self, process: Process) -> None:
        """Ask every process of the instance politely to end."""
        found = await self.members(process)
        tell_each(found, signal.SIGTERM)
        tell_each(found, signal.SIGCONT)  # one that is stopped or frozen hears nothing

    async def kill_all(self, instance: InstanceId, session: int | None) -> None:
        """Kill every process of an instance until there is none; see `Look.members`."""
        while found := await self._table.members(instance, session):
            ending = signal_each(found, signal.SIGKILL)
            try:
                for fd in ending:
                    await trio.lowlevel.wait_readable(fd)
            finally:
                for fd in ending:
                    os.close(fd)

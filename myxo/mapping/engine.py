"""A map's own thread, so that callers of every kind of concurrency have the same map."""

import threading
from collections.abc import Callable
from typing import Any

import trio

from myxo.mapping.functions import PickledFunction
from myxo.mapping.items import Items, WindowItems
from myxo.mapping.mailbox import Mailbox
from myxo.mapping.run import MapRun
from myxo.mapping.schedule import Schedule
from myxo.mapping.settings import MapSettings
from myxo.mapping.workers import Workers


class Engine:
    """Runs a map in a thread of its own, from `start` to the mailbox's end.

    Args:
        function: what is computed.
        items: of what; those of a window are added by `give`.
        schedule: of the map.
        workers: where they are had.
        mailbox: takes outcomes.
        settings: of the map.
    """

    def __init__(
        self,
        function: PickledFunction,
        items: Items,
        schedule: Schedule,
        workers: Workers,
        mailbox: Mailbox,
        settings: MapSettings,
    ) -> None:
        self._items = items
        self._schedule = schedule
        self._mailbox = mailbox
        self._run = MapRun(
            function,
            items,
            schedule,
            workers,
            mailbox.put,
            settings,
            read_more=mailbox.want if items.count is None else None,
        )
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._main, name="myxo.map", daemon=True)

    def start(self) -> None:
        """Begin; return when `give`, `took` and `cancel` may be called."""
        self._thread.start()
        self._running.wait()

    def give(self, items: list[Any], *, ended: bool) -> None:
        """Hand over more of the input; from any thread."""

        def take() -> None:
            if isinstance(self._items, WindowItems):
                self._schedule.offer(self._items.add(items))
            if ended:
                self._schedule.close()
            self._run.look_again()

        self._soon(take)

    def took(self, items: int) -> None:
        """Note that the caller has taken so many outcomes."""
        self._soon(lambda: self._run.taken(items))

    def cancel(self) -> None:
        """Have the map end: its workers stop what they compute for it."""
        self._soon(self._scope.cancel)

    def join(self) -> None:
        """Wait for the thread's end; it is near once the map has ended or was cancelled."""
        self._thread.join()

    def _soon(self, call: Callable[[], None]) -> None:
        try:
            if self._token is not None:
                self._token.run_sync_soon(call)
        except trio.RunFinishedError:
            return

    def _main(self) -> None:
        error: BaseException | None = None
        try:
            trio.run(self._within)
        except BaseException as exc:  # noqa: BLE001  (it is raised where the caller waits)
            error = exc
        finally:
            self._running.set()
            self._mailbox.end(error)

    async def _within(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._running.set()
        with self._scope:
            await self._run.run()

"""What can go wrong with a map, by what a caller can do about it."""

from overlay.errors import MyxoError


class MapError(MyxoError):
    """A map could not be done."""


class Unpicklable(MapError):
    """The function, an item or a result cannot travel; the message names what in it."""


class FunctionUnusable(MapError):
    """No worker can load the function, mostly because a module is not installed there."""


class NoWorkers(MapError):
    """No worker can be had: nobody may start one here, or there is no room."""


class ItemFailed(MapError):
    """An item's exception, where the exception itself could not travel.

    Attributes:
        index: of the item in the input.
        kind: the exception's type, with its module.
        trace: its traceback on the worker.
        worker: which one.
    """

    def __init__(self, index: int, kind: str, message: str, trace: str, worker: str) -> None:
        super().__init__(f"item {index}: {kind}: {message}")
        self.index = index
        self.kind = kind
        self.trace = trace
        self.worker = worker


class WorkerLost(MapError):
    """An item ended every worker that computed it."""


class RemoteTraceback(Exception):
    """The cause of an exception that was raised by a worker: the traceback there, as text."""

    def __init__(self, trace: str) -> None:
        super().__init__()
        self.trace = trace

    def __str__(self) -> str:
        return f'\n"""\n{self.trace}"""'

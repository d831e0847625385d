"""The access log of the front: what its proxy tells of each request, to a logger of the program.

The proxy writes its lines into a pipe, by a thread of its own, and drops and counts them where
nobody reads (`proxy/telemetry/access_log.py`). So no request waits for a filter, a format, a file
or a terminal: that is all done here, in the program's own process, which serves nobody.
"""

import json
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import trio

from myxo.puma.configuration import Logging
from myxo.puma.log_format import rendered

MAX_LINE = 64 * 1024
"""The proxy's are of some KiB."""


READ_BYTES = 64 * 1024


@asynccontextmanager
async def following(path: Path, config: Logging) -> AsyncIterator[None]:
    """Make a pipe at `path`, and tell the logger of what comes out of it, until the block's end.

    Raises:
        OSError: pipe or log file cannot be made.
    """
    os.mkfifo(path, 0o600)
    # Open for writing, too: else it would end as often as the proxy is restarted.
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with _logging(config) as logger:
            async with trio.open_nursery() as nursery:
                lines = Lines(config, logger)
                nursery.start_soon(_follow, pipe, lines)
                try:
                    yield
                finally:
                    nursery.cancel_scope.cancel()
                    _take(pipe, lines)
    finally:
        os.close(pipe)
        path.unlink(missing_ok=True)


class Lines:
    """Takes the proxy's lines in whatever pieces they come, and tells a logger of them."""

    def __init__(self, config: Logging, logger: logging.Logger) -> None:
        self._config, self._logger = config, logger
        self._line, self._rest = config.line, b""

    def feed(self, data: bytes) -> None:
        """Take some bytes."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:MAX_LINE]
        for line in lines:
            self._tell(line)

    def _tell(self, written: bytes) -> None:
        try:
            line = json.loads(written)
        except ValueError:  # cut, as the proxy was killed in its midst
            return
        if self._config.filter.takes(line):
            self._logger.info("%s", rendered(self._line, line))


async def _follow(pipe: int, lines: Lines) -> None:
    while True:
        await trio.lowlevel.wait_readable(pipe)
        _take(pipe, lines)


def _take(pipe: int, lines: Lines) -> None:
    """Take what is there."""
    with suppress(BlockingIOError):
        while data := os.read(pipe, READ_BYTES):
            lines.feed(data)


@contextmanager
def _logging(config: Logging) -> Iterator[logging.Logger]:
    """Yield the logger, which writes to the file that is named, or else to standard error."""
    logger = logging.getLogger(config.name)
    handler: logging.Handler | None = None
    if config.config.path is not None:
        handler = logging.FileHandler(config.config.path, encoding="utf-8")
    elif not logger.hasHandlers():
        handler = logging.StreamHandler()
    logger.setLevel(logging.INFO)
    if handler is not None:
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    try:
        yield logger
    finally:
        if handler is not None:
            logger.removeHandler(handler)
            handler.close()

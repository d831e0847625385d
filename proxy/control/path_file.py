"""The file of paths that lead to services, read again when it has changed.

It is JSON, `{"/policy": "service", …}`, as `route/paths.py` has it. Each request looks at the file,
which costs one `stat`, so that the first one after a change goes the new way. A change that cannot
be used, such as a file that is half written, leaves what was there in force.
"""

import json
from pathlib import Path

import structlog

from overlay.errors import InvalidName, SettingsInvalid
from proxy.route.paths import Paths, paths_of

MAX_BYTES = 1024 * 1024

log = structlog.get_logger()


class PathFile:
    """What a file of paths says.

    Args:
        path: the file.

    Raises:
        SettingsInvalid: it cannot be used; says why.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._look()
        self._paths = self._read()

    def current(self) -> Paths:
        """Return what it says now, or said last where that cannot be used."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._paths = self._read()
            except SettingsInvalid as exc:
                log.warning("paths.unusable", error=str(exc), kept="the ones before")
            else:
                log.info("paths.read", count=len(self._paths.services))
        return self._paths

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> Paths:
        try:
            with self._path.open("rb") as file:
                return _parsed(file.read(MAX_BYTES + 1))
        except (OSError, ValueError, InvalidName, RecursionError) as exc:
            raise SettingsInvalid(f"the file of paths {self._path}: {exc}") from exc


def _parsed(content: bytes) -> Paths:
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has over {MAX_BYTES} bytes")
    written = json.loads(content)
    if not isinstance(written, dict) or not all(isinstance(n, str) for n in written.values()):
        raise ValueError('it is not of the form {"/path": "service"}')
    return paths_of(written)

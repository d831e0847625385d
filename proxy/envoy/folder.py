"""The files that Envoy watches: each is replaced as a whole, by something new only."""

import json
import os
from pathlib import Path

from proxy.envoy.messages import Message


class Folder:
    """Writes files of which Envoy sees either the old or the new content."""

    def __init__(self) -> None:
        self._written: dict[Path, str] = {}
        self._version = 0

    def next_version(self) -> int:
        """Return a number that no file was written under."""
        self._version += 1
        return self._version

    def write(self, path: Path, message: Message) -> bool:
        """Put `message` in the place of a file, readable by this user alone; return if it is new.

        Raises:
            OSError: it cannot be written.
        """
        said = json.dumps({**message, "version_info": ""})
        if self._written.get(path) == said:
            return False
        fresh = path.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(message, file)
        fresh.replace(path)
        self._written[path] = said
        return True

    def remove(self, path: Path) -> None:
        """Remove a file that nothing refers to any more."""
        path.unlink(missing_ok=True)
        self._written.pop(path, None)

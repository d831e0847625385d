"""How far an engine's pull is, from the lines in which it tells of each layer. Pure.

For each layer it tells how many bytes are downloaded, and later how many of them are unpacked, and
not always the last of either.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_DOWNLOADING = "Downloading"
_DOWNLOADED = frozenset({"Verifying Checksum", "Download complete", "Extracting", "Pull complete"})


@dataclass(slots=True)
class Pulled:
    """What was told so far.

    Attributes:
        steps: how often something was, so that silence can be told from progress.
    """

    steps: int = 0
    _done: dict[str, int] = field(default_factory=dict)
    _total: dict[str, int] = field(default_factory=dict)

    @property
    def done_bytes(self) -> int:
        """What was downloaded."""
        return sum(self._done.values())

    @property
    def total_bytes(self) -> int:
        """What there is to download, of the layers that have begun."""
        return sum(self._total.values())

    def take(self, line: Mapping[str, Any]) -> None:
        """Take in a line."""
        self.steps += 1
        layer, status = str(line.get("id")), str(line.get("status"))
        detail = line.get("progressDetail") or {}
        if status == _DOWNLOADING and detail:
            self._done[layer] = int(detail.get("current") or 0)
            self._total[layer] = int(detail.get("total") or self._done[layer])
        elif status in _DOWNLOADED and layer in self._total:
            self._done[layer] = self._total[layer]

"""The links of a lab that is up: changed, cut, and asked what became of their packets."""

from dataclasses import dataclass, fields
from typing import Any

from bench.netlab.link import Link
from bench.netlab.messages import RouterClient

_CHANGES = tuple(field.name for field in fields(Link))


@dataclass(frozen=True, slots=True)
class Counters:
    """What became of the packets on one direction of a link.

    Attributes:
        packets, octets: handed over at the far end.
        lost: by the link's loss.
        overflowed: the queue before the line was full.
        cut: the link was cut, or nobody was there.
    """

    packets: int = 0
    octets: int = 0
    lost: int = 0
    overflowed: int = 0
    cut: int = 0


@dataclass(frozen=True, slots=True)
class LabLink:
    """The link between two hosts of a lab; both directions, where nothing else is said."""

    source: str
    target: str
    router: RouterClient

    def set(
        self,
        *,
        one_way: bool = False,
        delay_s: float | None = None,
        jitter_s: float | None = None,
        loss: float | None = None,
        bandwidth_bps: float | None = None,
        queue_s: float | None = None,
        reorder: bool | None = None,
    ) -> None:
        """Change what is given, of both directions or of that from the first host to the second.

        Raises:
            LabFailed: a value is out of its range; nothing was changed.
        """
        given = (delay_s, jitter_s, loss, bandwidth_bps, queue_s, reorder)
        changes = {n: v for n, v in zip(_CHANGES, given, strict=True) if v is not None}
        self.router.ask("set", paths=[(*path, changes) for path in self._paths(one_way)])

    def cut(self, *, one_way: bool = False) -> None:
        """Let nothing pass, not even what is under way, until `heal`."""
        self.router.ask("cut", paths=self._paths(one_way), cut=True)

    def heal(self, *, one_way: bool = False) -> None:
        """Undo `cut`."""
        self.router.ask("cut", paths=self._paths(one_way), cut=False)

    def properties(self) -> Link:
        """Return what the direction from the first host to the second is like now."""
        return Link(**self._path()["link"])

    def counters(self) -> Counters:
        """Return what became of the packets from the first host to the second."""
        return Counters(**self._path()["counters"])

    def _path(self) -> dict[str, Any]:
        path: dict[str, Any] = self.router.ask("path", source=self.source, target=self.target)
        return path

    def _paths(self, one_way: bool) -> list[tuple[str, str]]:
        there, back = (self.source, self.target), (self.target, self.source)
        return [there] if one_way else [there, back]

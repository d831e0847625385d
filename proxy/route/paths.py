"""Paths that lead to services of other names, as a program chose them.

    /policy        leads to a service; so does what is below it, such as /policy/7?x=1
    /policy/new    is more exact than /policy, and comes first
    /              leads everything that no other path does

A path ends where a segment does: `/policy` is not the beginning of `/policyholders`. The service
sees what follows, as it does where its own name leads to it. What no path leads to is looked at as
ever (`routing.py`).

Pure: target in, service out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from overlay.names import ServiceName, service_name

MOST = 1000
"""Paths of a proxy; each request looks up as many as its own path has segments."""

MAX_SEGMENTS = 16
"""Of a path that leads somewhere; a request's own path may be longer."""

_ALLOWED = frozenset(map(chr, range(0x21, 0x7F))) - set('?#"<>\\^`{|}')


@dataclass(frozen=True, slots=True)
class Paths:
    """Services by the path that leads to them; the one for `/` has the empty path.

    Raises:
        InvalidName: a service has a name that none can have.
        ValueError: a path is none; says why.
    """

    services: Mapping[bytes, ServiceName] = field(default_factory=dict)

    def find(self, target: bytes) -> tuple[ServiceName, bytes, bytes] | None:
        """Return the service that a target leads to, the path that does, and the target below it.

        Args:
            target: path and query, as the client sent them.
        """
        if not self.services:
            return None
        path, mark, query = target.partition(b"?")
        prefix = b"/".join(path.split(b"/", MAX_SEGMENTS + 1)[: MAX_SEGMENTS + 1])
        while (service := self.services.get(prefix)) is None:
            if not prefix:
                return None
            prefix = prefix.rpartition(b"/")[0]
        rest = path[len(prefix) :]
        return service, prefix, (rest or b"/") + mark + query


def paths_of(written: Mapping[str, str]) -> Paths:
    """Return what a mapping of paths to services says.

    Raises:
        InvalidName: a service has a name that none can have.
        ValueError: a path is none; says why.
    """
    if len(written) > MOST:
        raise ValueError(f"there are {len(written)} paths; {MOST} are allowed")
    services: dict[bytes, ServiceName] = {}
    for path, name in written.items():
        key = checked(path).removesuffix("/").encode()
        if key in services:
            raise ValueError(f"{path!r} is there twice")
        services[key] = service_name(name)
    return Paths(services)


def checked(path: str) -> str:
    """Return `path` if requests may come by it.

    Raises:
        ValueError: it is none; says why.
    """
    segments = path.split("/")[1:]
    if not path.startswith("/") or not set(path) <= _ALLOWED:
        raise ValueError(f"{path!r} is no path: it begins with / and has no space, ? or #")
    if len(segments) > MAX_SEGMENTS:
        raise ValueError(f"{path!r} has {len(segments)} segments; {MAX_SEGMENTS} are allowed")
    if any(segment in {"", ".", ".."} for segment in segments[:-1]) or segments[-1] in {".", ".."}:
        raise ValueError(f"{path!r} has a segment that is empty, . or ..")
    return path

"""What a service needs installed where it runs: named as pip has it, and looked for there."""

import importlib.metadata
import json
import sys
from collections.abc import Mapping, Sequence

from packaging.requirements import InvalidRequirement, Requirement

from overlay.errors import MyxoError

REQUIRES = "SERVICE_REQUIRES"
"""The variable of an instance with what must be installed, as JSON."""

IMAGE = "SERVICE_IMAGE"
"""The variable with the name of the image that it runs from, if it does."""


class Lacking(MyxoError):
    """The environment has not what the service needs; the message names it."""


def requirement(written: str) -> str:
    """Return a requirement as pip has it.

    Raises:
        ValueError: it is none.
    """
    try:
        return str(Requirement(written))
    except InvalidRequirement as exc:
        raise ValueError(f"{written!r} is not what pip would install: {exc}") from exc


def check_environment(variables: Mapping[str, str], also: Sequence[str] = ()) -> None:
    """Return if all is installed here that an instance's variables say, and what else is needed.

    Raises:
        Lacking: naming what is not, and where it is to be installed.
    """
    needed = [*also, *json.loads(variables.get(REQUIRES, "[]"))]
    lacking = [one for one in needed if not _is_met(Requirement(one))]
    if lacking:
        raise Lacking(_told(lacking, variables.get(IMAGE)))


def _told(lacking: Sequence[str], image: str | None) -> str:
    names, quoted = ", ".join(lacking), " ".join(f"'{one}'" for one in lacking)
    if image is not None:
        return f"the image {image} lacks {names}; make one, of another name, that has it"
    return (
        f"this machine's environment lacks {names}; its operator can install it with "
        f"{sys.executable} -m pip install {quoted}"
    )


def _is_met(needed: Requirement) -> bool:
    if needed.marker is not None and not needed.marker.evaluate():
        return True
    try:
        version = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return needed.specifier.contains(version, prereleases=True)

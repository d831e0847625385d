"""What the extra `myxo[lab]` brings, said where it is lacking."""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.lab.errors import LabError


class ExtraLacks(LabError):
    """A library of the lab is not installed."""


@contextmanager
def needing_extra() -> Iterator[None]:
    """Say what to install where a block's imports fail.

    Raises:
        ExtraLacks: naming the library that is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        raise ExtraLacks(
            f"{exc.name} is not installed here; it comes with the lab: pip install 'myxo[lab]'"
        ) from exc

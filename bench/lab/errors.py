"""What the lab says when it cannot do what was asked."""

from overlay.errors import MyxoError


class LabError(MyxoError):
    """The root of all errors here; its text says what was wrong and what to do."""


class NoSuchHost(LabError):
    """A pattern matches no load host."""


class LoadFailed(LabError):
    """A load host did not do what it was told, or is gone."""


class BadInput(LabError):
    """A file, a flag or a request cannot be used as it is."""

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


class NoSuchExperiment(LabError):
    """No experiment has this id."""


class WrongState(LabError):
    """An experiment is not in a state in which this can be done to it."""


class StoreFailed(LabError):
    """The database does not answer, or did not do what it was asked."""


class IdTaken(BadInput):
    """There is an experiment with this id already."""


class QueueFull(LabError):
    """So many experiments wait that no more are taken."""

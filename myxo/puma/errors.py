"""What can be wrong with a program that becomes services."""

from overlay.errors import MyxoError


class ConfigInvalid(MyxoError):
    """The configuration cannot be used; the message names the key, and what it may be."""


class SourceInvalid(MyxoError):
    """A service's code cannot be used; the message names the service, and what in it."""

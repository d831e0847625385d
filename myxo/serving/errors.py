"""What can go wrong before a function or an application is a service."""

from overlay.errors import MyxoError


class ServingError(MyxoError):
    """It cannot be made a service of."""


class NotServable(ServingError):
    """It is neither a function of at most one argument nor an ASGI or WSGI application."""


class NotFound(ServingError):
    """A module, or what is named in it, is not there."""


class TooLarge(ServingError):
    """The program is larger than a definition carries."""


class NotRegistered(ServingError):
    """No registry took the definition; the message has its reason."""

"""What can be served, told apart by what it takes."""

import inspect
from collections.abc import Callable
from enum import Enum
from typing import Any

from myxo.serving.errors import NotServable


class Kind(Enum):
    """How something is called for a request."""

    FUNCTION = "function"
    WSGI = "wsgi"
    ASGI = "asgi"


_BY_ARGUMENTS = {0: Kind.FUNCTION, 1: Kind.FUNCTION, 2: Kind.WSGI, 3: Kind.ASGI}


def kind_of(target: Callable[..., Any]) -> Kind:
    """Return what something is: by how many arguments it has to be given.

    Two are WSGI's environment and start of the answer, three are ASGI's scope, receive and send.

    Raises:
        NotServable: it is none of these.
    """
    if not callable(target):
        raise NotServable(f"{target!r} cannot be called, so it is no function and no application")
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return Kind.FUNCTION  # of C, which says nothing
    needed = [p for p in parameters if p.default is p.empty and p.kind in _POSITIONAL]
    kind = _BY_ARGUMENTS.get(len(needed))
    if kind is None:
        raise NotServable(
            f"{target!r} takes {len(needed)} arguments; a function takes one at most, a WSGI "
            "application two, an ASGI application three"
        )
    return kind


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def takes_a_value(function: Callable[..., Any]) -> bool:
    """Whether a function can be given one argument."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:
        return True
    return True

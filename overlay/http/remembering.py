"""What was worked out from a head, kept while the same head comes again.

A client on a kept connection mostly asks with the bytes that it asked with before, and a server
answers with those that it answered with. To parse a head, to find its route and to write its fields
anew is a quarter of what a small proxied request costs, and depends on these bytes alone. So heads
are remembered by their bytes, and what others make of one by the object that the parser hands out.

All that is bounded in number and in bytes, and what is refused is not remembered. Nor is a head
that carries a secret: it would stay in memory long after its request, and some microseconds would
show that somebody has sent it. The question is asked where a head is parsed, so that it costs
nothing where one is known.
"""

import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Protocol, TypeVar, TypeVarTuple

MOST = 512
"""Heads of each kind; more different ones at a time are seldom the same again soon."""

MOST_BYTES = 2048
"""Of one head. Longer ones carry tokens and cookies, and would make it 32 MiB where this is 1."""

_SECRET = re.compile(
    rb"auth|cookie|token|secret|key|session|passw|credential|signature|csrf|xsrf|jwt|assertion",
    re.IGNORECASE,
)
"""In the name of a field. Few secrets are called otherwise, and what is called so and is none is
parsed each time, no more."""

Ts = TypeVarTuple("Ts")
R = TypeVar("R")


class Head(Protocol):
    """A head, which says whether it is remembered."""

    @property
    def remembered(self) -> bool:
        """Another message with the same head gets this very object."""
        ...


H = TypeVar("H", bound=Head)


def is_remembered(data: bytes, names: Iterable[bytes]) -> bool:
    """Return whether a head is remembered, by its bytes and the names of its fields."""
    return len(data) <= MOST_BYTES and not any(map(_SECRET.search, names))


def by_bytes(parse: Callable[[bytes, *Ts], H]) -> Callable[[bytes, *Ts], H]:
    """Have a parser return the same object for the same bytes; nobody may change it."""
    made: dict[tuple[bytes, tuple[*Ts]], H] = {}

    @wraps(parse)
    def parsed(data: bytes, /, *args: *Ts) -> H:
        known = made.get((data, args))
        if known is not None:
            return known
        head = parse(data, *args)
        if head.remembered:
            if len(made) >= MOST:
                del made[next(iter(made))]
            made[data, args] = head
        return head

    return parsed


def by_head(work: Callable[[H, *Ts], R]) -> Callable[[H, *Ts], R]:
    """Have a pure function remember what it returned last for each remembered head.

    Heads are told by their identity; other arguments are compared. Nobody may change what is
    returned.
    """
    made: dict[int, tuple[H, tuple[*Ts], R]] = {}

    @wraps(work)
    def worked(head: H, /, *args: *Ts) -> R:
        known = made.get(id(head))
        if known is not None and known[0] is head and known[1] == args:
            return known[2]
        result = work(head, *args)
        if head.remembered:
            if known is None and len(made) >= MOST:
                del made[next(iter(made))]
            made[id(head)] = (head, args, result)  # holds the head, so that its id stays its own
        return result

    return worked

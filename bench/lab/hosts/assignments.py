"""Requests that several clients were told to send, and whether they have."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import trio

from bench.lab.errors import LoadFailed
from bench.lab.hosts.messages import Progress

MAX_ASSIGNMENTS = 1024
"""Of one host; the oldest that have ended are forgotten first."""

SHOWN_TROUBLES = 5


@dataclass(slots=True, eq=False)
class Assignment:
    """What some clients are to send; it ends when none of them is at it any more.

    Attributes:
        count: how many each sends; None for no end.
        inter_arrival: as the client's process takes it.
        waiting: the clients that are at it.
    """

    count: int | None
    inter_arrival: Any
    waiting: set[str]
    troubles: list[str] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)

    def leave(self, client: str, trouble: str = "") -> None:
        """Take in that a client has done its part, or why it will not."""
        if client in self.waiting and trouble:
            self.troubles.append(f"{client}: {trouble}")
        self.waiting.discard(client)
        if not self.waiting:
            self.ended.set()

    def progress(self) -> Progress:
        """Return whether it has ended, and what went wrong."""
        shown = self.troubles[:SHOWN_TROUBLES]
        return Progress(ended=self.ended.is_set(), trouble="; ".join(shown))


class Assignments:
    """The assignments of one host, by number."""

    def __init__(self) -> None:
        self._all: OrderedDict[int, Assignment] = OrderedDict()
        self._next = 1

    def add(self, assignment: Assignment) -> int:
        """Keep an assignment; return its number.

        Raises:
            LoadFailed: too many have not ended.
        """
        if len(self._all) >= MAX_ASSIGNMENTS:
            old = next((n for n, a in self._all.items() if a.ended.is_set()), None)
            if old is None:
                raise LoadFailed(f"this host's clients have {MAX_ASSIGNMENTS} things to do already")
            del self._all[old]
        number, self._next = self._next, self._next + 1
        self._all[number] = assignment
        return number

    def get(self, number: int) -> Assignment:
        """Return an assignment.

        Raises:
            LoadFailed: there is none of that number, or it is forgotten.
        """
        if number not in self._all:
            raise LoadFailed(f"this host has no assignment {number}; it may have started anew")
        return self._all[number]

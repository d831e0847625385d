"""The commands of the lab's shell."""

from collections.abc import Mapping

from myxo.line_shell import Word
from myxo.rtable_shell import ROUTING_WORDS

_PATTERN = "the host name or pattern (e.g., 'pico1' or 'pico[0-9]'), a regular expression"
_SERVICE = "the service name, or a URL"

LAB_WORDS: Mapping[str, Word] = {
    "hosts": Word(
        "hosts [host_pattern]",
        "Show the load hosts that are there.",
        "hosts pico.*",
        {"host_pattern": _PATTERN},
    ),
    "clients": Word(
        "clients [host_pattern]",
        "Show the clients on load hosts.",
        "clients pico1",
        {"host_pattern": _PATTERN},
    ),
    "info": Word("info", "Show what clients there are of each service, and what they do.", "info"),
    "ping": Word("ping", "Ask every load host whether it is there, and how far it is.", "ping"),
    "spawn": Word(
        "spawn host_pattern service [num] [client]",
        "Spawn new clients for the given service on the given hosts; they send nothing yet.",
        "spawn pico[0-9] squeezenet 2",
        {
            "host_pattern": _PATTERN,
            "service": _SERVICE,
            "num": "the number of clients on each host; 1 if left out",
            "client": "a client of one's own (`myxo lab app`); else plain GET requests are sent",
        },
    ),
    "rps": Word(
        "rps host_pattern service rps",
        "Set the requests a second that a service's clients on each host send together.",
        "rps pico1 squeezenet 2.5",
        {
            "host_pattern": _PATTERN,
            "service": _SERVICE,
            "rps": "requests a second, fractions too; 0 is a pause",
        },
    ),
    "request": Word(
        "request host_pattern service count [gap]",
        "Have each of a service's clients send so many requests, and wait for the last answer.",
        "request pico1 squeezenet 100 expovariate:2",
        {
            "host_pattern": _PATTERN,
            "service": _SERVICE,
            "count": "requests of each client",
            "gap": "seconds between two, or a distribution with its parameters, such as "
            "expovariate:2; without it each is sent as soon as the one before is answered",
        },
    ),
    "close": Word(
        "close host_pattern service",
        "End a service's clients, after what they have under way.",
        "close pico1 squeezenet",
        {"host_pattern": _PATTERN, "service": _SERVICE},
    ),
    **ROUTING_WORDS,
}

"""The shell of `myxo rtable`."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from myxo.line_shell import LineShell, Word
from myxo.rtable import Ask, as_text, command

ROUTING_WORDS: Mapping[str, Word] = {
    "set": Word(
        "set service hosts [weights]",
        "Send requests for a service to these hosts, from the next one on.",
        "set squeezenet heisenberg:8080,einstein:8080 1,2",
        {
            "service": "the service's name; it need not be registered",
            "hosts": "HOST:PORT of each target, separated by commas",
            "weights": "how much each gets, in proportion, fractions too; equal if left out",
        },
    ),
    "unset": Word(
        "unset service",
        "Let the network decide again where requests for a service go.",
        "unset squeezenet",
        {"service": "the service's name"},
    ),
    "clear": Word("clear", "Unset all services.", "clear"),
    "list": Word("list", "Show all services, hosts and weights.", "list"),
    "updates": Word("updates", "Show the changes of the table.", "updates"),
    "flush": Word("flush", "Forget the changes that `updates` shows; the table stays.", "flush"),
}
"""What every shell with a routing table knows of it."""

WORDS: Mapping[str, Word] = {
    **ROUTING_WORDS,
    "updates": Word(
        "updates [follow]",
        "Show the changes of the table; with follow each new one, until Ctrl-C.",
        "updates",
        {"follow": "the word itself"},
    ),
    "info": Word("info", "Show which proxies the commands go to.", "info"),
}


def routing_shell(
    ask: Ask, follow: Callable[[], Awaitable[None]], echo: Callable[[str], None] = print
) -> LineShell:
    """Return the shell.

    Args:
        ask: has the proxies do commands.
        follow: shows changes as they come, until it is cancelled.
        echo: shows a line to the person.
    """

    async def act(name: str, given: Sequence[str]) -> None:
        if name == "updates" and given:
            if given[0] != "follow":
                raise WORDS[name].refusal()
            await follow()
            return
        await route(ask, name, given, echo)

    return LineShell(WORDS, act, echo)


async def route(ask: Ask, name: str, given: Sequence[str], echo: Callable[[str], None]) -> None:
    """Do a command on routing tables and show what the proxies answer.

    Raises:
        RtableFailed: it is written wrongly, or a proxy refused.
    """
    for line in as_text(name, await ask(command(name, given))):
        echo(line)

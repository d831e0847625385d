"""What the lab's shell shows, as text."""

from collections.abc import Iterable, Iterator, Sequence

from bench.lab.load_hosts import ClientStatus


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table with as much room for each column as it needs."""
    every = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    for row in every:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def client_rows(clients: Iterable[ClientStatus]) -> Iterator[str]:
    """Yield what each client does."""
    heads = ("Client", "Rps", "Sent", "Failed", "Queue")
    rows = ((c.client, f"{c.rps:g}", str(c.sent), str(c.failed), str(c.queue)) for c in clients)
    return table(heads, rows)


def info_rows(clients: Iterable[ClientStatus]) -> Iterator[str]:
    """Yield what the clients of each service on each host do together."""
    groups: dict[tuple[str, str], list[ClientStatus]] = {}
    for client in clients:
        groups.setdefault((client.host, client.service), []).append(client)
    rows = (
        (host, service, metric, f"{value:g}")
        for (host, service), members in sorted(groups.items())
        for metric, value in _metrics(members)
    )
    return table(("Host", "Service", "Metric", "Value"), rows)


def _metrics(clients: Sequence[ClientStatus]) -> Iterator[tuple[str, float]]:
    yield "clients", len(clients)
    yield "rps", sum(c.rps for c in clients)
    yield "sent", sum(c.sent for c in clients)
    yield "failed", sum(c.failed for c in clients)
    yield "queue", sum(c.queue for c in clients)

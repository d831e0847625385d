"""How definitions look to a person, and as JSON to a program."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from overlay.revision import SignedRevision
from overlay.spec import ServiceSpec


def as_json(signed: SignedRevision) -> dict[str, Any]:
    """Return a revision as JSON-ready values."""
    revision = signed.revision
    return {
        "name": revision.name,
        "revision": revision.number,
        "owner": signed.owner,
        "editors": list(revision.editors),
        "created_at": revision.created_at,
        "deleted": revision.spec is None,
        "spec": None if revision.spec is None else revision.spec.model_dump(mode="json"),
    }


def as_text(signed: SignedRevision) -> str:
    """Return a revision as lines."""
    revision = signed.revision
    rows = [("revision", f"{revision.number}, {_date(revision.created_at)}")]
    rows.append(("signed by", signed.owner))
    if revision.editors:
        rows.append(("editors", " ".join(revision.editors)))
    rows += [("deleted", "yes")] if revision.spec is None else _spec_rows(revision.spec)
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {_shown(value)}" for name, value in rows]
    return "\n".join([revision.name, *lines])


def as_table(revisions: Iterable[SignedRevision]) -> str:
    """Return revisions as a table, one a line."""
    head = ("NAME", "REVISION", "RUNTIME", "RUNS", "ADDED", "SIGNED BY")
    rows = [head, *(_row(signed) for signed in revisions)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def what_runs(spec: ServiceSpec) -> str:
    """Return the image or command in few words."""
    return spec.image.reference if spec.image is not None else (spec.process or "")


def _row(signed: SignedRevision) -> tuple[str, ...]:
    revision = signed.revision
    spec = revision.spec
    runs = "(deleted)" if spec is None else "".join(what_runs(spec).splitlines()[:1])[:60]
    return (
        revision.name,
        str(revision.number),
        "" if spec is None else spec.runtime,
        _shown(runs),
        _date(revision.created_at),
        signed.owner,
    )


def _spec_rows(spec: ServiceSpec) -> list[tuple[str, str]]:
    rows = [("runtime", spec.runtime), ("runs", what_runs(spec))]
    if spec.image is not None:
        rows.append(("image", spec.image.config_digest))
        rows.append(("pushed as", spec.image.repo_digest or "in no registry"))
        rows.append(("platform", ", ".join(spec.image.platforms)))
        rows.append(("port", str(spec.port)))
    rows.append(("soft RTT", _limit(spec.soft_rtt_ms)))
    rows.append(("hard RTT", _limit(spec.hard_rtt_ms)))
    rows.append(("CPU", f"{spec.cpu_millicores} millicores" if spec.cpu_millicores else "any"))
    rows.append(("memory", f"{spec.memory_mib} MiB" if spec.memory_mib else "any"))
    shown = {"image", "process", "port", "soft_rtt_ms", "hard_rtt_ms", "cpu_millicores"}
    further = spec.model_dump(mode="json", exclude=shown | {"memory_mib"}, exclude_defaults=True)
    return rows + [(name, str(value)) for name, value in further.items()]


def _shown(text: str) -> str:
    """Return text that somebody else wrote so that it cannot steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _limit(milliseconds: float | None) -> str:
    return "any" if milliseconds is None else f"{milliseconds:g} ms"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")

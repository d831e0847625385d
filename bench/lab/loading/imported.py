"""What was made of another tool's file: a load, and what of the file has no part in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Imported:
    """A load file's content.

    Attributes:
        plan: what `plan.make_plan` takes.
        notes: what could not be converted, and what was taken otherwise, a sentence each.
    """

    plan: dict[str, Any]
    notes: Sequence[str]


def origin_of(url: str) -> str:
    """Return scheme and authority of a URL; empty if it is none of http or https."""
    parts = urlsplit(url)
    known = parts.scheme in {"http", "https"} and parts.netloc
    return f"{parts.scheme}://{parts.netloc}" if known else ""


def path_of(url: str) -> str:
    """Return path and query of a URL."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

"""What machines are called, and what services ask of it: labels, and constraints on them.

An operator gives a machine labels, `zone=berlin`; a few are there by themselves: `host`, `platform`
and `runtime`. A service's constraints say for some labels which values a machine must have, one of
several, or which it must not have, `!value`. A label that a machine lacks has no value: it meets
what must not be, and nothing else.

Pure: labels and constraints in, what is unmet out.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated

from pydantic import Field, StringConstraints

MAX_LABELS = 32
"""With names and values of full length they take 6 of a record's 16 KiB."""

MAX_VALUES = 32
"""Of one label in a constraint."""

NOT = "!"
"""Begins a value that a machine must not have."""

BUILT_IN = frozenset({"host", "platform", "runtime"})
"""What a machine says of itself; no operator can say otherwise."""

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$"
_VALUE = r"^[A-Za-z0-9._:/@+-]{1,128}$"
_WANTED = r"^!?[A-Za-z0-9._:/@+-]{1,128}$"

LabelName = Annotated[str, StringConstraints(pattern=_NAME)]
Labels = Annotated[
    dict[LabelName, Annotated[str, StringConstraints(pattern=_VALUE)]],
    Field(max_length=MAX_LABELS),
]
Constraints = Annotated[
    dict[
        LabelName,
        Annotated[
            tuple[Annotated[str, StringConstraints(pattern=_WANTED)], ...],
            Field(min_length=1, max_length=MAX_VALUES),
        ],
    ],
    Field(max_length=MAX_LABELS),
]

Called = Mapping[str, frozenset[str]]
"""All of a machine's values by label; `runtime` has several."""

ALLOWED_NAME = "1 to 63 of a-z A-Z 0-9 . _ / -"
ALLOWED_VALUE = "1 to 128 of a-z A-Z 0-9 . _ : / @ + -"


def is_label(text: str) -> bool:
    """Whether `text` can be a label's name."""
    return re.fullmatch(_NAME, text) is not None


def is_wanted(text: str) -> bool:
    """Whether `text` can be a value in a constraint."""
    return re.fullmatch(_WANTED, text) is not None


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """Return the labels in `NAME=VALUE` texts; of two with one name the later holds.

    Raises:
        ValueError: saying what a label may be.
    """
    labels = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not is_label(name) or not re.fullmatch(_VALUE, value):
            raise ValueError(
                f"{text!r} is no label; write NAME=VALUE, NAME of {ALLOWED_NAME}, "
                f"VALUE of {ALLOWED_VALUE}"
            )
        if name in BUILT_IN:
            raise ValueError(f"{name} is what the machine says of itself; choose another name")
        labels[name] = value
    if len(labels) > MAX_LABELS:
        raise ValueError(f"{len(labels)} labels; a machine may have {MAX_LABELS}")
    return labels


def unmet(constraints: Mapping[str, Sequence[str]], called: Called) -> Iterator[str]:
    """Yield what of `constraints` a machine called so does not meet, in words."""
    for label, wanted in constraints.items():
        has = called.get(label, frozenset())
        never = {value.removeprefix(NOT) for value in wanted if value.startswith(NOT)}
        any_of = [value for value in wanted if not value.startswith(NOT)]
        if wrong := sorted(has & never):
            yield f"its {label} is {' and '.join(wrong)}, which the service excludes"
        elif any_of and not has.intersection(any_of):
            is_now = f"is {' and '.join(sorted(has))}" if has else "is not set"
            yield f"its {label} {is_now}, the service wants {' or '.join(any_of)}"

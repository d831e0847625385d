"""The operator's policy file: TOML, read when the allocator starts and again when it was changed.

It is looked at each time that something is decided, so that a change counts at once. A file that
cannot be read, then or because it has gone, leaves the rules that were in force in force, and says
so in the log and in `myxo status` until it is right again.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from allocator.rules.policy import (
    EVERYBODY,
    NO_RULES,
    TRUSTED,
    Ceiling,
    Listed,
    OwnerRules,
    Quota,
    Rules,
)
from overlay.errors import SettingsInvalid, SignatureInvalid
from overlay.identity import public_key_of
from overlay.names import PeerId
from overlay.settings import config_dir
from overlay.spec import MOST

FILE_NAME = "policy.toml"

MAX_BYTES = 1024 * 1024
"""Some 10,000 entries; what is larger was not written by a person."""

log = structlog.get_logger()

_Pattern = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
_Runtime = Literal["docker", "process"]
_Count = Annotated[int, Field(ge=1, le=MOST)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Listed(_Section):
    allow: tuple[_Pattern, ...] = (EVERYBODY,)
    deny: tuple[_Pattern, ...] = ()


class _Limits(_Section):
    instances: _Count | None = None
    cpu_millicores: _Count | None = None
    memory_mib: _Count | None = None
    starts_per_minute: _Count | None = None
    kept: _Count | None = None


class _Ceiling(_Section):
    cpu_millicores: _Count | None = None
    memory_mib: _Count | None = None


class _Owner(_Section):
    runtimes: tuple[_Runtime, ...] | None = None
    limits: _Limits | None = None
    ceiling: _Ceiling | None = None


class _File(_Section):
    runtimes: tuple[_Runtime, ...] = ("docker", "process")
    peers: _Listed = _Listed()
    owners: _Listed = _Listed()
    images: _Listed = _Listed()
    limits: _Limits = _Limits()
    ceiling: _Ceiling = _Ceiling()
    owner: dict[str, _Owner] = {}


def default_path() -> Path:
    """Return where the policy file is unless `--policy` names another."""
    return config_dir() / FILE_NAME


def read_policy(path: Path) -> Rules:
    """Return the rules in a file.

    Raises:
        SettingsInvalid: it cannot be read; says where it is wrong, and what may have been meant.
    """
    try:
        return _rules(_File.model_validate(tomllib.loads(_text(path))))
    except (OSError, ValueError, SettingsInvalid) as exc:
        what = _explain(exc) if isinstance(exc, ValidationError) else str(exc)
        raise SettingsInvalid(f"the policy file {path} cannot be used: {what}") from exc


class PolicyFile:
    """The rules in force.

    Args:
        path: the file; None is the one in the configuration directory, which need not exist.

    Attributes:
        problem: why the file is not what is in force; empty if it is.

    Raises:
        SettingsInvalid: the file cannot be used.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or default_path()
        self._may_be_missing = path is None
        self._seen = self._mark()
        self._rules = self._read()
        self.problem = ""

    def rules(self) -> Rules:
        """Return what holds now; a file that was changed is read."""
        mark = self._mark()
        if mark == self._seen:
            return self._rules
        self._seen = mark
        try:
            self._rules = self._read_again(mark)
        except SettingsInvalid as exc:
            self.problem = f"{exc}; the rules from before hold until it is right"
            log.error("policy.refused", error=self.problem)  # noqa: TRY400  (it is no bug)
        else:
            self.problem = ""
            log.warning("policy.changed", path=str(self._path))
        return self._rules

    def status(self) -> dict[str, str]:
        """Return what `myxo status` shows."""
        self.rules()
        there = self._seen is not None
        return {"file": str(self._path) if there else "", "problem": self.problem}

    def _read(self) -> Rules:
        if self._seen is None and self._may_be_missing:
            return NO_RULES
        return read_policy(self._path)

    def _read_again(self, mark: object) -> Rules:
        """A file that has gone may be on its way to being replaced: it takes no rule away."""
        if mark is None:
            raise SettingsInvalid(f"the policy file {self._path} has gone")
        return read_policy(self._path)

    def _mark(self) -> tuple[int, int, int] | None:
        """Return what changes with the file's content; None if there is none."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        except OSError:
            return (0, 0, 0)
        return found.st_mtime_ns, found.st_size, found.st_ino


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise SettingsInvalid(f"it is larger than {MAX_BYTES} bytes")
    return path.read_text()


def _rules(file: _File) -> Rules:
    return Rules(
        peers=_checked("peers", file.peers, {EVERYBODY}),
        owners=_checked("owners", file.owners, {EVERYBODY, TRUSTED}),
        images=Listed(file.images.allow, file.images.deny),
        runtimes=frozenset(file.runtimes),
        quota=_quota(file.limits),
        ceiling=_ceiling(file.ceiling),
        owner={_key("owner", key): _owner(own) for key, own in file.owner.items()},
    )


def _owner(own: _Owner) -> OwnerRules:
    return OwnerRules(
        runtimes=None if own.runtimes is None else frozenset(own.runtimes),
        quota=None if own.limits is None else _quota(own.limits),
        ceiling=None if own.ceiling is None else _ceiling(own.ceiling),
    )


def _quota(limits: _Limits) -> Quota:
    return Quota(**limits.model_dump())


def _ceiling(ceiling: _Ceiling) -> Ceiling:
    return Ceiling(**ceiling.model_dump())


def _checked(section: str, listed: _Listed, words: set[str]) -> Listed:
    for entry in (*listed.allow, *listed.deny):
        if entry not in words:
            _key(section, entry)
    return Listed(listed.allow, listed.deny)


def _key(section: str, text: str) -> PeerId:
    try:
        public_key_of(PeerId(text))
    except SignatureInvalid as exc:
        raise SettingsInvalid(f"[{section}] names {text!r}, which is no key's id") from exc
    return PeerId(text)


def _explain(exc: ValidationError) -> str:
    first = exc.errors()[0]
    *where, last = (str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{'.'.join((*where, last))}: {first['msg']}"
    place = f"in [{'.'.join(where)}]" if where else "at its top"
    known = _keys_at(where)
    near = difflib.get_close_matches(last, known, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it may have {', '.join(known)}"
    return f"there is no key {last!r} {place}; {hint}"


def _keys_at(where: list[str]) -> list[str]:
    """Return the keys that a table may have."""
    section: type[_Section]
    match where:
        case []:
            section = _File
        case ["owner", _]:
            section = _Owner
        case [*_, "limits"]:
            section = _Limits
        case [*_, "ceiling"]:
            section = _Ceiling
        case _:
            section = _Listed
    return sorted(section.model_fields)

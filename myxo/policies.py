"""`myxo policy check`: whether a policy file can be used, and what it would decide."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from allocator.rules.allowed import allowed_keys
from allocator.rules.policy import NO_RULES, Ground, Rules, Verdict, decide, untagged
from allocator.rules.policy_file import default_path, read_policy
from overlay.identity import Identity
from overlay.names import Digest, PeerId
from overlay.spec import Image, ServiceSpec

_ANY_DIGEST = Digest("sha256:" + "0" * 64)


@dataclass(frozen=True, slots=True)
class Question:
    """A service that somebody may want to have started.

    Attributes:
        image: its image's name or `sha256:…`; empty is a process.
        owner: whose it is; None is somebody whom the file does not name.
        peer: who asks; likewise.
    """

    image: str = ""
    owner: str | None = None
    peer: str | None = None
    cpu_millicores: int = 0
    memory_mib: int = 0
    open_network: bool = False


def check(path: Path | None, admin: str | None, question: Question) -> Verdict:
    """Return what the rules in a file decide on one service.

    Raises:
        SettingsInvalid: the file cannot be used.
    """
    ground = Ground(question.open_network, trusted=allowed_keys(admin))
    return decide(
        read_rules(path),
        ground,
        owner=PeerId(question.owner or Identity.generate().peer_id),
        spec=_spec(question),
        peer=PeerId(question.peer or Identity.generate().peer_id),
    )


def read_rules(path: Path | None) -> Rules:
    """Return the rules in a file, or in the one that an allocator would take.

    Raises:
        SettingsInvalid: the file cannot be used.
    """
    if path is None and not default_path().exists():
        return NO_RULES
    return read_policy(path or default_path())


def print_rules(rules: Rules, echo: Callable[[str], None]) -> None:
    """Print each part that says something else than the defaults."""
    said = [f for f in fields(Rules) if getattr(rules, f.name) != getattr(NO_RULES, f.name)]
    for part in said:
        echo(f"{part.name}: {_in_words(getattr(rules, part.name))}")
    if not said:
        echo("no rules: the defaults hold")


def _spec(question: Question) -> ServiceSpec:
    limits = {"cpu_millicores": question.cpu_millicores, "memory_mib": question.memory_mib}
    if not question.image:
        return ServiceSpec(process="true", **limits)
    is_digest = question.image.startswith("sha256:")
    digest = Digest(question.image) if is_digest else _ANY_DIGEST
    image = Image(reference=question.image, config_digest=digest)
    if not is_digest:  # a name that can be proved: whether it is, the engine knows at the start
        name = image.reference.partition("@")[0]
        image = image.model_copy(update={"repo_digest": f"{untagged(name)}@{_ANY_DIGEST}"})
    return ServiceSpec(image=image, **limits)


def _in_words(part: object) -> str:
    if isinstance(part, dict):
        return "; ".join(f"{key}: {_in_words(value)}" for key, value in part.items())
    if isinstance(part, (tuple, frozenset)):
        return ", ".join(sorted(part)) or "none"
    if not hasattr(part, "__dataclass_fields__"):
        return str(part)
    values = {f: getattr(part, f) for f in part.__dataclass_fields__}
    return ", ".join(f"{k} {_in_words(v)}" for k, v in values.items() if v is not None and v != ())

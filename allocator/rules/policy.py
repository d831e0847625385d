"""Who may have what run on this machine: the operator's rules, and one decision with its reason.

The network's members trust each other with their machines up to a container's limits; the operator
of one machine may trust them less. The rules say who may ask (peers), whose services may run
(owner keys), which images, by which runtime, and how much of the machine one owner may have. The
first rule that says no decides, in that order; in each list `deny` beats `allow`. A decision
carries the rule that made it, so that whoever is refused knows whom to ask for what.

Without rules the defaults hold. Images of every member of a network with a passphrase may run; in
an open network, where anybody is a member, only those of trusted owners, unless the operator opens
that. A `--process` service runs with the rights of this machine's user: only trusted owners may
have one started anywhere, and those whose own table names the runtime. Nothing here can ask for a
privileged container, because nothing in a service's definition can.

What an image is called is what the owner of the service calls it; what runs is what has the digest
of its config. So only that digest proves itself, whoever brought the bytes. Where a rule lets an
image in by its name, its host or the digest that a registry gave it (`rests_on_name`), the engine
itself must have pulled it by that name, unless a trusted owner says it. A rule that keeps a name
out binds those who name their images truly: others push the same bytes under another name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from overlay.names import PeerId
from overlay.spec import Image, ServiceSpec

EVERYBODY = "*"
TRUSTED = "trusted"
"""In a list of owners: the machine's own user, the network's admin, and `myxo allow`."""

REGISTRY = "registry:"
"""Begins an image pattern that names the host it is pulled from."""

DOCKER_HUB = "docker.io"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says.

    Attributes:
        rule: which one decided.
        why: why not; empty if it is allowed.
    """

    rule: str
    why: str = ""

    @property
    def allowed(self) -> bool:
        """Whether it may be."""
        return not self.why

    def __str__(self) -> str:
        """Say it with the rule that decided."""
        return f"{self.why} (policy: {self.rule})" if self.why else f"allowed by {self.rule}"


KEPT_OF_AN_OWNER = 16
"""Instances that an owner who is not trusted may have kept (`min_instances`) here if no rule says
otherwise; what is kept gives no room to others, used or not."""

KEPT_SHARE = 2
"""One part in so many of a machine's instances may be kept for all such owners together, so that
many of them leave room for what is asked for."""


@dataclass(frozen=True, slots=True)
class Quota:
    """How much one owner may have at once; None is no bound.

    Attributes:
        kept: instances that the machine keeps for its services; None is `KEPT_OF_AN_OWNER` for
            whoever is not trusted.
    """

    instances: int | None = None
    cpu_millicores: int | None = None
    memory_mib: int | None = None
    starts_per_minute: int | None = None
    kept: int | None = None


@dataclass(frozen=True, slots=True)
class Ceiling:
    """How much one instance may have; None is no bound."""

    cpu_millicores: int | None = None
    memory_mib: int | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """Who or what may pass: `deny` beats `allow`."""

    allow: tuple[str, ...] = (EVERYBODY,)
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnerRules:
    """What holds for one owner instead of what holds for all; None is what holds for all."""

    runtimes: frozenset[str] | None = None
    quota: Quota | None = None
    ceiling: Ceiling | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator wrote down.

    Attributes:
        runtimes: by which services may run here at all.
        owner: what holds for single owners.
    """

    peers: Listed = Listed()
    owners: Listed = Listed()
    images: Listed = Listed()
    runtimes: frozenset[str] = frozenset({"docker", "process"})
    quota: Quota = Quota()
    ceiling: Ceiling = Ceiling()
    owner: Mapping[PeerId, OwnerRules] = field(default_factory=dict)

    def of(self, owner: PeerId) -> OwnerRules:
        """Return what is written for one owner, or nothing."""
        return self.owner.get(owner, OwnerRules())

    def quota_of(self, owner: PeerId) -> Quota:
        """Return how much an owner may have."""
        return self.of(owner).quota or self.quota


NO_RULES = Rules()


@dataclass(frozen=True, slots=True)
class Ground:
    """What decides where no rule does.

    Attributes:
        open_network: there is no passphrase: anybody may be a member.
        allow_any: in an open network, run everybody's images all the same.
        trusted: the owner keys that may do everything.
    """

    open_network: bool = False
    allow_any: bool = False
    trusted: frozenset[PeerId] = frozenset()


def decide(
    rules: Rules, ground: Ground, *, owner: PeerId, spec: ServiceSpec, peer: PeerId | None = None
) -> Verdict:
    """Return whether a service of `owner` may run here when `peer` asks for it.

    Args:
        rules: the operator's, or `NO_RULES`.
        ground: what holds without them.
        owner: whose key signed the service.
        spec: the service.
        peer: who asks; None is this machine itself.
    """
    verdicts = [
        Verdict("default") if peer is None else _who("peers", rules.peers, peer, "peer", ground),
        _who("owners", rules.owners, owner, "owner", ground),
        _runtime(rules, ground, owner, spec),
        _image(rules, ground, owner, spec.image),
        _open_network(rules, ground, owner, spec),
        _under_ceiling(rules, owner, spec),
    ]
    refused = (v for v in verdicts if not v.allowed)
    telling = (v for v in reversed(verdicts) if v.rule != "default")
    return next(refused, None) or next(telling, None) or Verdict("default")


def within(
    quota: Quota, *, instances: int, cpu: int, memory_mib: int, spec: ServiceSpec
) -> Verdict:
    """Return whether an owner who has so much may have one instance of `spec` more."""
    if quota.instances is not None and instances >= quota.instances:
        return _over(
            "instances", f"{instances} instances of this owner run here, which is the most"
        )
    for key, name, unit, most, held, wanted in (
        ("cpu_millicores", "CpuReq", "millicores", quota.cpu_millicores, cpu, spec.cpu_millicores),
        ("memory_mib", "MemoryReq", "MiB", quota.memory_mib, memory_mib, spec.memory_mib),
    ):
        if most is None:
            continue
        if not wanted:
            return _over(
                key, f"the service names no {name}, and what its owner may have is bounded"
            )
        if held + wanted > most:
            left = max(0, most - held)
            return _over(key, f"{name} is {wanted} {unit}, its owner has {left} of {most} left")
    return Verdict("limits")


def _over(key: str, why: str) -> Verdict:
    return Verdict(f"limits.{key}", why)


def _who(section: str, listed: Listed, key: PeerId, what: str, ground: Ground) -> Verdict:
    words = {EVERYBODY, key} | ({TRUSTED} if key in ground.trusted else set())
    for entry in listed.deny:
        if entry in words:
            return Verdict(f'{section}.deny "{entry}"', f"the {what} {key} may not")
    # a key says more than a star, so that whoever is named is known to be named
    named = sorted(words & set(listed.allow), key=lambda entry: entry == EVERYBODY)
    if not named:
        return Verdict(f"{section}.allow", f"the {what} {key} is not among those who may")
    return Verdict("default" if named[0] == EVERYBODY else f'{section}.allow "{named[0]}"')


def _runtime(rules: Rules, ground: Ground, owner: PeerId, spec: ServiceSpec) -> Verdict:
    runtime = spec.runtime
    if runtime not in rules.runtimes:
        return Verdict("runtimes", f"no {runtime} service runs on this machine")
    own = rules.of(owner).runtimes
    if own is not None:
        rule = f"owner.{owner}.runtimes"
        return Verdict(rule, "" if runtime in own else f"the owner {owner} may not use {runtime}")
    if runtime == "process" and owner not in ground.trusted:
        return Verdict(
            "default",
            "the service runs a command with the rights of this machine's user and its owner "
            f"{owner} is not allowed to do that here; the operator can: myxo allow {owner}",
        )
    return Verdict("default")


def rests_on_name(rules: Rules, ground: Ground, owner: PeerId, image: Image) -> bool:
    """Return whether an image may run for what it is called, so that this has to be proved."""
    allow = rules.images.allow
    proved = EVERYBODY in allow or image.config_digest in allow
    return not proved and owner not in ground.trusted


def _image(rules: Rules, ground: Ground, owner: PeerId, image: Image | None) -> Verdict:
    if image is None:
        return Verdict("default")
    listed = rules.images
    for pattern in listed.deny:
        if any(matches(pattern, image)):
            return Verdict(f'images.deny "{pattern}"', f"the image {image.reference} may not run")
    for pattern in listed.allow:
        if pattern == EVERYBODY:
            return Verdict("default")
        if all(matches(pattern, image)):
            unproved = image.repo_digest is None and rests_on_name(rules, ground, owner, image)
            return Verdict(f'images.allow "{pattern}"', _nameless(image) if unproved else "")
    return Verdict("images.allow", f"the image {image.reference} is not among those that may run")


def _nameless(image: Image) -> str:
    return (
        f"the image {image.reference} is in no registry, so nobody but its owner says that it is "
        f"called so; push it, or have {image.config_digest} allowed"
    )


def matches(pattern: str, image: Image) -> list[bool]:
    """Return for each name of an image whether a pattern means it; a digest means all or none.

    A pattern is `sha256:…`, `registry:HOST`, or a name with `*` for anything, with its tag or
    without. An image has the name it was added under, and the one it is pulled by if it was pushed.
    """
    pushed, _, digest = (image.repo_digest or "").rpartition("@")
    if pattern.startswith("sha256:"):
        return [pattern in {image.config_digest, digest}]
    names = [image.reference, pushed] if pushed else [image.reference]
    if pattern.startswith(REGISTRY):
        host = pattern.removeprefix(REGISTRY)
        return [fnmatchcase(registry_host(name), host) for name in names]
    return [_is_called(name, pattern) for name in names]


def registry_host(name: str) -> str:
    """Return the host that an image is pulled from under this name, as Docker reads it."""
    first, slash, _ = name.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else DOCKER_HUB


def _is_called(name: str, pattern: str) -> bool:
    """A name without a tag, as a pushed one has none, is compared with the pattern's name alone."""
    bare = untagged(name)
    if fnmatchcase(name, pattern) or fnmatchcase(bare, pattern):
        return True
    return name == bare and fnmatchcase(name, untagged(pattern))


def untagged(name: str) -> str:
    """Return an image's name without its tag."""
    before, colon, tag = name.rpartition(":")
    return before if colon and "/" not in tag else name


def _open_network(rules: Rules, ground: Ground, owner: PeerId, spec: ServiceSpec) -> Verdict:
    if not ground.open_network or ground.allow_any or spec.runtime != "docker":
        return Verdict("default")
    if owner in ground.trusted or owner in rules.owners.allow or owner in rules.owner:
        return Verdict("default")
    return Verdict(
        "default",
        f"the service is offered in an open network and its owner {owner} is not allowed to do "
        f"that here; the operator can: myxo allow {owner}, or for everybody's images the flag "
        "--allow-any",
    )


def _under_ceiling(rules: Rules, owner: PeerId, spec: ServiceSpec) -> Verdict:
    own = rules.of(owner).ceiling
    ceiling, section = (
        (rules.ceiling, "ceiling") if own is None else (own, f"owner.{owner}.ceiling")
    )
    for key, name, unit, most, wanted in (
        ("cpu_millicores", "CpuReq", "millicores", ceiling.cpu_millicores, spec.cpu_millicores),
        ("memory_mib", "MemoryReq", "MiB", ceiling.memory_mib, spec.memory_mib),
    ):
        if most is None or 0 < wanted <= most:
            continue
        what = f"{name} is {wanted} {unit}" if wanted else f"the service names no {name}"
        return Verdict(f"{section}.{key}", f"{what}, and an instance may have {most} {unit}")
    return Verdict("default")

"""Reads a service's configuration, and checks it field by field.

Units: `RTT` is in milliseconds, `CpuReq` in millicores, `MemoryReq` in MiB; 0 is no requirement.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overlay.spec import MAX_PREEMPT_GRACE_S, MAX_S, MOST_FAILURES, MOST_KEPT
from registry.conf.docker import DockerConf, docker
from registry.conf.document import parse
from registry.conf.place import Field, Place, flag, number
from registry.conf.values import (
    MOST,
    cap_drop,
    constraints,
    environment,
    image_reference,
    min_state,
    network,
    path,
    policy,
    protocol,
    rate,
    rtt_ms,
    statuses,
    sticky,
)
from registry.errors import ConfInvalid

MAX_CONF_BYTES = 256 * 1024
"""Four times what a definition may have."""

FAILURES = Field(
    number(f"how many in a row, from 1 to {MOST_FAILURES}", 1, MOST_FAILURES, whole=True)
)

FIELDS: dict[str, Field[Any]] = {
    "NetworkSoftReq": Field(rtt_ms),
    "NetworkHardReq": Field(rtt_ms),
    "CpuReq": Field(
        number("whole millicores, 1000 is one core, 0 no requirement", 0, MOST, whole=True)
    ),
    "MemoryReq": Field(number("whole MiB, 0 is no requirement", 0, MOST, whole=True)),
    "constraints": Field(constraints),
    "prefer": Field(constraints),
    "DockerConf": Field(docker),
    "image": Field(image_reference),
    "port": Field(number("a port from 1 to 65535", 1, 65535, whole=True)),
    "protocol": Field(protocol),
    "tunnel_idle_s": Field(number("seconds over 0", 0.001, 10**9, whole=False)),
    "env": Field(environment),
    "concurrency": Field(
        number("how many requests an instance serves at once, from 1", 1, MOST, whole=True)
    ),
    "max_instances": Field(
        number("how many instances there may be, 0 is no limit", 0, MOST, whole=True)
    ),
    "min_instances": Field(
        number(f"how many instances are kept, 0 (none) to {MOST_KEPT}", 0, MOST_KEPT, whole=True)
    ),
    "min_state": Field(min_state),
    "idle_pause_s": Field(number("seconds, 0 is never", 0, 10**9, whole=False)),
    "idle_stop_s": Field(number("seconds over 0", 0.001, 10**9, whole=False)),
    "ready_timeout_s": Field(number("seconds over 0, at most 600", 0.001, 600, whole=False)),
    "preempt_grace_s": Field(
        number(
            f"seconds over 0, at most {MAX_PREEMPT_GRACE_S:g}",
            0.001,
            MAX_PREEMPT_GRACE_S,
            whole=False,
        )
    ),
    "idempotent": Field(flag),
    "health": Field(path),
    "health_interval_s": Field(number("seconds, 0 is at the start only", 0, MAX_S, whole=False)),
    "health_failures": FAILURES,
    "eject_after": Field(number("how many in a row, 0 is never", 0, MOST_FAILURES, whole=True)),
    "retry_percent": Field(number("a share of the requests, from 0 to 100", 0, 100, whole=False)),
    "retry_statuses": Field(statuses),
    "hedge_ms": Field(number("milliseconds over 0", 0.001, MAX_S * 1000, whole=False)),
    "hedge_percentile": Field(number("a percentile from 50 to 99.9", 50, 99.9, whole=False)),
    "timeout_s": Field(number("seconds over 0", 0.001, MAX_S, whole=False)),
    "max_in_flight": Field(number("how many requests, 0 is no bound", 0, MOST, whole=True)),
    "max_pending": Field(
        number("how many requests, 0 is the proxy's own bound", 0, MOST, whole=True)
    ),
    "rate_limit": Field(rate),
    "client_rate_limit": Field(rate),
    "global_rate_limit": Field(rate),
    "read_only": Field(flag),
    "cap_drop": Field(cap_drop),
    "network": Field(network),
    "policy": Field(policy),
    "sticky": Field(sticky),
}

_SPEC_FIELDS = {
    "CpuReq": "cpu_millicores",
    "MemoryReq": "memory_mib",
    **{
        name: name
        for name in (
            "constraints",
            "prefer",
            "port",
            "protocol",
            "tunnel_idle_s",
            "env",
            "concurrency",
            "max_instances",
            "min_instances",
            "min_state",
            "idle_pause_s",
            "idle_stop_s",
            "ready_timeout_s",
            "preempt_grace_s",
            "idempotent",
            "health",
            "health_interval_s",
            "health_failures",
            "eject_after",
            "retry_percent",
            "retry_statuses",
            "hedge_ms",
            "hedge_percentile",
            "timeout_s",
            "max_in_flight",
            "max_pending",
            "rate_limit",
            "client_rate_limit",
            "global_rate_limit",
            "read_only",
            "network",
            "policy",
            "sticky",
        )
    },
}
"""Fields of the file that go into the spec unchanged."""


@dataclass(frozen=True, slots=True)
class ServiceConf:
    """A checked configuration.

    Attributes:
        docker: how to build the image; None if the file has no `DockerConf`.
        image: a stock image to run instead.
        spec: fields of `ServiceSpec` that the file sets, by their names there.
    """

    docker: DockerConf | None = None
    image: str | None = None
    spec: dict[str, Any] = field(default_factory=dict)


def read_conf(path: Path) -> ServiceConf:
    """Return the configuration in `path`.

    Raises:
        ConfInvalid: saying where and what is wrong, and what is allowed.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONF_BYTES + 1)
    except OSError as exc:
        raise ConfInvalid(f"{path} cannot be read: {exc.strerror}") from exc
    if len(content) > MAX_CONF_BYTES:
        raise ConfInvalid(f"{path} is no service configuration: it has over {MAX_CONF_BYTES} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        line = content[: exc.start].count(b"\n") + 1
        raise ConfInvalid(f"{path}, line {line}: the text is not UTF-8") from exc
    return parse_conf(text, str(path))


def parse_conf(text: str, source: str) -> ServiceConf:
    """Return the configuration in `text`; `source` is its name in errors.

    Raises:
        ConfInvalid: see `read_conf`.
    """
    root = Place(source, "", parse(text, source))
    known = root.fields(FIELDS)
    spec = {name: known[key] for key, name in _SPEC_FIELDS.items() if key in known}
    for key, name in (("NetworkSoftReq", "soft_rtt_ms"), ("NetworkHardReq", "hard_rtt_ms")):
        if (rtt := known.get(key)) is not None:
            spec[name] = rtt
    if known.get("cap_drop"):
        spec["cap_drop_all"] = known["cap_drop"] == "all"
    _check_together(root, known, spec)
    return ServiceConf(docker=known.get("DockerConf"), image=known.get("image"), spec=spec)


def _check_together(root: "Place", known: dict[str, Any], spec: dict[str, Any]) -> None:
    soft, hard = spec.get("soft_rtt_ms"), spec.get("hard_rtt_ms")
    if soft is not None and hard is not None and soft > hard:
        root.at("NetworkSoftReq").at("RTT").refuse(
            f"at most NetworkHardReq.RTT, which is {hard:g} ms: over the soft limit a nearer "
            "instance is looked for, over the hard one an instance is not used"
        )
    fewest, most = spec.get("min_instances", 0), spec.get("max_instances", 0)
    if most and fewest > most:
        root.at("min_instances").refuse(f"at most max_instances, which is {most}")
    if known.get("min_state") == "paused" and spec.get("idle_pause_s") == 0:
        root.at("min_state").refuse('"running" where idle_pause_s is 0, which means never paused')
    if "image" in known and "DockerConf" in known:
        root.at("image").refuse("either image (runs it as it is) or DockerConf (builds one)")

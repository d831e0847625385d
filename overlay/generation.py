"""A service's generations: revisions in a row that the same instances may serve.

Most of a definition says how a program is run: its image, command, environment, room. An instance
of another such definition is another program, and goes when the definition does. The rest says
what others do with the instances: how many there are, when they rest, who is sent to which of
them. A running program cannot see that, so a revision that differs in nothing else leaves the
instances where they are, and everybody goes by its new numbers.

Who signs a revision decides, by what came before it, and says in the revision which instances it
takes over; so everybody agrees on that, also who never heard of the revision before. Another key
takes over nothing: what an instance may do on a machine depends on whose it is.

Pure.
"""

from overlay.names import PeerId
from overlay.revision import SignedRevision
from overlay.spec import ServiceSpec

OF_INSTANCES = frozenset(
    {
        "image",
        "process",
        "command",
        "port",
        "protocol",
        "env",
        "constraints",
        "cpu_millicores",
        "memory_mib",
        "ready_timeout_s",
        "preempt_grace_s",
        "health",
        "health_interval_s",
        "health_failures",
        "read_only",
        "cap_drop_all",
        "network",
    }
)
"""Fields by which an instance is started, held to its room and judged; it lives by them."""

OF_USE = frozenset(
    {
        "tunnel_idle_s",
        "soft_rtt_ms",
        "hard_rtt_ms",
        "prefer",
        "concurrency",
        "max_instances",
        "min_instances",
        "min_state",
        "idle_pause_s",
        "idle_stop_s",
        "idempotent",
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
        "policy",
        "sticky",
    }
)
"""Fields that say how many instances there are and how they are used; no program sees them."""


def same_instances(before: ServiceSpec, after: ServiceSpec) -> bool:
    """Return whether an instance of `before` serves `after` as a new one would."""
    return all(getattr(before, name) == getattr(after, name) for name in OF_INSTANCES)


def taken_over(newest: SignedRevision | None, spec: ServiceSpec | None, signer: PeerId) -> int:
    """Return whose instances the revision after `newest` takes over, as `Revision` says it.

    Args:
        newest: a name's newest revision; None if the name was never taken.
        spec: what the service is from now on; None deletes it.
        signer: the key that says so.
    """
    before = None if newest is None else newest.revision.spec
    if newest is None or before is None or spec is None or newest.owner != signer:
        return 0
    return newest.revision.generation if same_instances(before, spec) else 0

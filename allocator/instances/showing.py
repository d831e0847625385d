"""What people are shown of a machine's instances, as JSON-ready values."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from allocator.instances.crashes import CrashLoop
from allocator.instances.instance import Instance
from allocator.instances.register import Gone


def shown(
    instances: Iterable[Instance], loops: Iterable[CrashLoop], gone: Iterable[Gone], now: float
) -> dict[str, Any]:
    """Return what is here, what failed and what went."""
    return {
        "own_instances": [_instance(i, now) for i in instances],
        "crash_loops": [asdict(loop) for loop in loops],
        "put_away": [_gone(g, now) for g in gone],
    }


def _instance(instance: Instance, now: float) -> dict[str, Any]:
    return {
        "id": instance.id,
        "service": instance.service,
        "revision": instance.revision,
        "state": instance.state.value,
        "runtime": instance.runtime.name,
        "healthy": instance.healthy,
        "address": instance.address,
        "in_flight": instance.load,
        "leases": len(instance.holders),
        "idle_s": 0.0 if instance.load else round(now - instance.last_active, 1),
        "kept": instance.kept.value,
        "cpu_millicores": instance.spec.cpu_millicores,
        "memory_mib": instance.spec.memory_mib,
        "used_memory_mib": instance.memory_mib or None,
    }


def _gone(gone: Gone, now: float) -> dict[str, Any]:
    return {
        "id": gone.instance,
        "service": gone.service,
        "ago_s": round(now - gone.at, 1),
        "why": gone.why,
    }

"""What this machine's proxy counts of a service, read where Prometheus reads it."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.lab.errors import LoadFailed
from myxo.status import NothingRuns, read_status
from overlay.records import Role

TIMEOUT_S = 10.0

_STARTS = "myxo_proxy_start_seconds"
_UNDER_WAY = "myxo_proxy_requests_in_flight"


class Counted(NamedTuple):
    """Of one service.

    Attributes:
        waited: requests that waited for a start, since the proxy is up.
        in_flight: requests that have not ended.
    """

    waited: int = 0
    in_flight: int = 0


class ProxyMetrics:
    """Reads a proxy's metrics.

    Args:
        url: of its metrics.
        client: that asks for them.
    """

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self._url = url
        self._client = client

    async def counted(self) -> Mapping[str, Counted]:
        """Return what was counted, by service.

        Raises:
            LoadFailed: the proxy does not say.
        """
        try:
            answer = await self._client.get(self._url, timeout=TIMEOUT_S)
            answer.raise_for_status()
        except httpx.HTTPError as exc:
            raise LoadFailed(f"the proxy's metrics at {self._url} cannot be read: {exc}") from exc
        return read(answer.text)


async def metrics_url(state_dir: Path) -> str:
    """Return where this machine's proxy shows its metrics.

    Raises:
        LoadFailed: there is no proxy here.
    """
    try:
        daemons = await read_status(state_dir)
    except NothingRuns as exc:
        raise LoadFailed(str(exc)) from exc
    for daemon in daemons:
        if daemon["role"] == Role.PROXY and daemon["metrics_port"]:
            return f"http://127.0.0.1:{daemon['metrics_port']}/metrics"
    raise LoadFailed("no proxy runs on this machine, or it shows no metrics; start `myxo up`")


def read(text: str) -> Mapping[str, Counted]:
    """Return what metrics in Prometheus's text format say of each service.

    A start has several phases and a request not all of them, so the most that any has counts.
    """
    waited: dict[str, int] = {}
    in_flight: dict[str, int] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            service = sample.labels.get("service", "")
            if sample.name == f"{_STARTS}_count":
                waited[service] = max(waited.get(service, 0), int(sample.value))
            elif sample.name == _UNDER_WAY:
                in_flight[service] = int(sample.value)
    services = waited.keys() | in_flight.keys()
    return {one: Counted(waited.get(one, 0), in_flight.get(one, 0)) for one in services}

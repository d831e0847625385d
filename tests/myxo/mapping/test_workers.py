"""Where a map has its workers, by what its caller said."""

import pytest
import trio

from myxo.mapping.errors import NoWorkers
from myxo.mapping.workers import CORE_MILLICORES, Workers, workers_of
from myxo.services.proxy_address import ProxyAddress
from overlay.errors import InvalidName
from overlay.spec import ServiceSpec

PROXY = ProxyAddress("127.0.0.1", 4200)


@pytest.fixture(autouse=True)
def _own_key(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path_factory.mktemp("config")))


def spec_of(workers: Workers) -> ServiceSpec:
    assert workers.spec is not None
    return workers.spec


@pytest.mark.parametrize("image", [None, "computes:1"])
def test_each_need_has_a_service_of_its_own_and_the_same_need_the_same(image: str | None) -> None:
    usual = workers_of(PROXY, image=image)
    large = workers_of(PROXY, image=image, resources={"memory_mib": 4096, "cpu_millicores": 2000})
    again = workers_of(PROXY, image=image, resources={"cpu_millicores": 2000, "memory_mib": 4096})
    assert spec_of(usual).cpu_millicores == CORE_MILLICORES
    assert (spec_of(large).cpu_millicores, spec_of(large).memory_mib) == (2000, 4096)
    assert large.service == again.service != usual.service
    assert large.image == image
    changed = {"cpu_millicores": 1000, "memory_mib": spec_of(usual).memory_mib}
    assert spec_of(large).model_copy(update=changed) == spec_of(usual)


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"memory": 1}, "memory_mib"),
        ({"gpus": 1}, "there is cpu_millicores and memory_mib"),
        ({"memory_mib": -1}, "greater than or equal to 0"),
        ({"cpu_millicores": "many"}, "valid integer"),
    ],
)
def test_what_is_no_need_is_said(resources: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        workers_of(PROXY, resources=resources)


def test_a_service_by_name_says_itself_what_it_needs() -> None:
    named = workers_of(PROXY, service="farm")
    assert (named.service, named.spec) == ("farm", None)
    for more in ({"image": "x"}, {"resources": {"memory_mib": 1}}):
        with pytest.raises(ValueError, match="are in its definition"):
            workers_of(PROXY, service="farm", **more)
    with pytest.raises(InvalidName):
        workers_of(PROXY, service="no name")


def test_a_service_by_name_is_not_registered_by_a_map() -> None:
    with pytest.raises(NoWorkers, match="no service is called farm"):
        trio.run(workers_of(PROXY, service="farm").register)

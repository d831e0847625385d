import random
from pathlib import Path

import pytest

from myxo.puma.configuration import read_config
from myxo.puma.errors import SourceInvalid
from myxo.puma.shipping import FUNCTION, MAX_PIECES, MODULE, PIECE, packed, unpacked
from myxo.puma.source import Source
from myxo.puma.specs import name_of, spec_of
from overlay.identity import Identity
from overlay.names import ServiceName
from overlay.spec import RateLimit
from registry.client import next_revision

OWNER = Identity.generate()
CONFIG = {"puma_services": {"one": "/one", "two": "/two"}}


def of_size(size: int) -> Source:
    """A source that does not compress."""
    text = random.Random(3).randbytes(size // 2).hex()
    return Source("f", {MODULE: f"TEXT = '{text}'\ndef f(): return TEXT\n"})


def test_the_largest_code_that_is_taken_fits_into_a_definition() -> None:
    size = 70_000
    while len(packed(of_size(size + 200).modules)) <= MAX_PIECES:
        size += 200
    source = of_size(size)
    assert len(packed(source.modules)[f"PUMA_CODE_{MAX_PIECES - 1}"]) > PIECE * 0.9
    spec = spec_of("one", source, read_config(CONFIG))
    next_revision(OWNER, ServiceName("one"), None, spec)
    assert unpacked(spec.env) == source.modules
    with pytest.raises(SourceInvalid, match=f"one.*{MODULE}"):
        spec_of("one", of_size(size + 200), read_config(CONFIG))


def test_the_same_program_makes_the_same_definition() -> None:
    one, same = (spec_of("one", of_size(100), read_config(CONFIG)) for _ in range(2))
    assert one == same
    assert one.env[FUNCTION] == "f"


@pytest.mark.parametrize(("named", "limited"), [("one", {"one"}), (None, {"one", "two"})])
def test_a_rate_limit_is_of_the_service_that_is_named_or_of_each(
    named: str | None, limited: set[str]
) -> None:
    rate = {"requests_per_unit": 3, "burst": 2} | ({"cluster_name": named} if named else {})
    config = read_config(CONFIG | {"rate_limit": rate, "load_balancer": "maglev"})
    specs = {key: spec_of(key, of_size(10), config) for key in config.coded}
    assert {key for key, spec in specs.items() if spec.global_rate_limit} == limited
    assert specs["one"].global_rate_limit == RateLimit(per_s=3, burst=2)
    assert all(spec.policy is not None and spec.policy.name == "maglev" for spec in specs.values())


def test_a_name_is_one_owners_and_one_programs() -> None:
    other = Identity.generate().peer_id
    me = OWNER.peer_id
    names = [
        name_of("service1", Path("/a/service.py"), me),
        name_of("service2", Path("/a/service.py"), me),
        name_of("service1", Path("/a/chat.py"), me),
        name_of("service1", Path("/a/service.py"), other),
        name_of("service1", None, me),
        name_of("service1", Path("/a/Ünï çödé & a name that is far too long for it.py"), me),
    ]
    assert len(set(names)) == len(names)
    assert names[0] == name_of("service1", Path("/elsewhere/service.py"), me)
    assert names[0].startswith("service-service1-")


@pytest.mark.parametrize("key", ["a", "A-b_c", "a" * 32, "a-", "x__"])
def test_every_key_makes_a_name(key: str) -> None:
    read_config({"puma_services": {key: "/x"}})
    assert name_of(key, Path("__main__.py"), OWNER.peer_id)


def test_keys_that_differ_in_case_alone_are_different_services() -> None:
    assert name_of("Face", None, OWNER.peer_id) != name_of("face", None, OWNER.peer_id)


def test_services_run_from_an_image_with_few_rights_if_the_program_names_one() -> None:
    config = read_config(CONFIG | {"image": "farm:1", "requires": ["numpy"]})
    spec = spec_of("one", of_size(100), config)
    assert (spec.process, spec.read_only, spec.cap_drop_all) == (None, True, True)
    assert spec.command == "PUMA_HOST=0.0.0.0 exec python3 -m myxo.puma.server"
    assert spec.env["SERVICE_IMAGE"] == "farm:1"
    assert spec.env["SERVICE_REQUIRES"] == '["numpy"]'
    assert "SERVICE_REQUIRES" not in spec_of("one", of_size(100), read_config(CONFIG)).env

import hashlib
import re

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from overlay.passphrase import generate_passphrase, network_keys


def test_the_keys_are_labels_of_a_master_that_is_slow_to_guess() -> None:
    master = hashlib.scrypt(
        b"swordfish", salt=b"myxo/1", n=2**15, r=8, p=1, maxmem=1 << 26, dklen=32
    )
    keys = network_keys("swordfish")
    assert keys.psk == HKDFExpand(SHA256(), 32, b"myxo/psk").derive(master)
    assert keys.ca_seed == HKDFExpand(SHA256(), 32, b"myxo/ca").derive(master)
    assert keys.network_id == HKDFExpand(SHA256(), 8, b"myxo/id").derive(master).hex()


def test_members_with_one_passphrase_agree_and_others_share_nothing() -> None:
    one, other = network_keys("one"), network_keys("other")
    assert network_keys("one") == one
    assert one.psk != other.psk
    assert one.ca_seed != other.ca_seed
    assert one.network_id != other.network_id


@pytest.mark.parametrize("passphrase", [None, ""])
def test_no_passphrase_is_an_open_network(passphrase: str | None) -> None:
    keys = network_keys(passphrase)
    assert keys.is_open
    assert keys.psk is None
    assert not network_keys("closed").is_open


def test_keys_show_only_the_networks_public_id() -> None:
    keys = network_keys("swordfish")
    assert keys.network_id in repr(keys)
    assert keys.psk is not None
    assert repr(keys.psk) not in repr(keys)
    assert repr(keys.ca_seed) not in repr(keys)


def test_a_generated_passphrase_can_be_read_aloud_and_typed_in_a_shell() -> None:
    made = {generate_passphrase() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"(?:[2-9a-hj-km-np-z]{4}-){4}[2-9a-hj-km-np-z]{4}", p) for p in made)

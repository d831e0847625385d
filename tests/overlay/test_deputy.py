from pathlib import Path

import pytest

from overlay.deputy import appoint, own_deputy, spoken_for
from overlay.identity import Identity, load_or_create
from overlay.names import PeerId
from overlay.settings import owner_key_path
from overlay.signed import Purpose, sign

OWNER, PROXY, OTHER = (Identity.generate() for _ in range(3))


def test_an_owners_word_is_for_the_peer_that_it_names() -> None:
    word = appoint(OWNER, PROXY.peer_id)
    assert spoken_for(word, PROXY.peer_id) == OWNER.peer_id
    assert spoken_for(word, OTHER.peer_id) is None
    assert spoken_for(None, PROXY.peer_id) is None


def test_a_forged_word_is_none() -> None:
    word = appoint(OTHER, PROXY.peer_id).model_copy(update={"signer": OWNER.peer_id})
    assert spoken_for(word, PROXY.peer_id) is None
    assert spoken_for(sign(OWNER, Purpose.DEPUTY, b"what?"), PROXY.peer_id) is None
    assert spoken_for(sign(OWNER, Purpose.RECORD, word.payload), PROXY.peer_id) is None


def test_a_daemon_speaks_for_its_user_where_there_is_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path))
    assert own_deputy(PROXY.peer_id) is None
    mine = load_or_create(owner_key_path()).peer_id
    assert spoken_for(own_deputy(PROXY.peer_id), PeerId(PROXY.peer_id)) == mine
    owner_key_path().write_bytes(b"damaged")
    assert own_deputy(PROXY.peer_id) is None

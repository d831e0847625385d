"""Who is told what, and how often, over calls that a test answers."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from overlay.bans import Ban, SignedBan
from overlay.calls import CallRefused
from overlay.errors import MyxoError, PeerUnreachable, ProtocolRefused
from overlay.framing import FramedStream
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.passphrase import network_keys
from overlay.rotation import Rotation, SignedRotation, Stage
from overlay.signed import Signed
from overlay.spreading import (
    BANS_PROTOCOL,
    RETRIES_S,
    ROTATE_PROTOCOL,
    Answer,
    Spreading,
    _State,
    _Taken,
)
from overlay.trust import Trust, open_trust

ADMIN = Identity.from_seed(b"a" * 32)
ME, OTHER, THIRD = sorted(Identity.from_seed(bytes([n]) * 32).peer_id for n in range(3))
BANNED = Identity.from_seed(b"b" * 32).peer_id

M = TypeVar("M", bound=BaseModel)
Handler = Callable[[PeerId, FramedStream], Awaitable[None]]


@dataclass
class FakeCalls:
    """Answers each call with what the test says, and notes it."""

    trust: Trust
    connected: set[PeerId]
    trouble: dict[PeerId, Exception] = field(default_factory=dict)
    behind: set[PeerId] = field(default_factory=set)
    made: list[tuple[PeerId, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    async def call(
        self, peer: PeerId, protocol: str, request: BaseModel, reply: type[M], *, timeout_s: float
    ) -> M:
        assert timeout_s > 0
        assert request is not None
        await trio.lowlevel.checkpoint()
        self.made.append((peer, protocol))
        self.times.append(trio.current_time())
        if peer in self.trouble:
            raise self.trouble[peer]
        stamp = (0, 1) if peer in self.behind else self.trust.ring.stamp
        answer: dict[str, Any] = {"stamp": stamp, "digest": self.trust.bans.digest}
        return reply.model_validate(answer)

    async def open_stream(self, peer: PeerId, protocol: str) -> FramedStream:
        raise PeerUnreachable(f"{peer} {protocol}")

    def handle(self, protocol: str, handler: Handler) -> None:
        assert protocol in {BANS_PROTOCOL, ROTATE_PROTOCOL}
        assert handler is not None


@dataclass
class Lab:
    trust: Trust
    calls: FakeCalls
    spreading: Spreading


@pytest.fixture
async def lab(tmp_path: Path, nursery: trio.Nursery) -> Lab:
    trust = open_trust(ME, ADMIN.peer_id, "old", tmp_path, durable=False)
    calls = FakeCalls(trust, {OTHER, THIRD})
    spreading = Spreading(ME, trust, calls, calls, lambda: frozenset(calls.connected))
    await nursery.start(spreading.run)
    await settled()
    calls.made.clear()
    calls.times.clear()
    return Lab(trust, calls, spreading)


async def settled() -> None:
    """Wait until all is said, retries included."""
    await trio.sleep(sum(RETRIES_S) + 10)


def ban(lab: Lab) -> Signed:
    statement = Ban(network=lab.trust.ring.network, peer=BANNED, version=1)
    return SignedBan.sign(ADMIN, statement).signed


async def change(lab: Lab, stage: Stage, *members: PeerId) -> None:
    rotation = Rotation(
        network=lab.trust.ring.network,
        version=1,
        stage=stage,
        replaces=lab.trust.ring.current.id,
        passphrase_id=network_keys("new").network_id,
        members=members,
        at=4e9,
    )
    assert await lab.trust.take_rotation(SignedRotation.sign(ADMIN, rotation).signed, "new")


async def test_of_two_that_meet_the_one_with_the_smaller_id_begins(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.trust.met(THIRD)
    await settled()
    assert lab.calls.made == [(THIRD, BANS_PROTOCOL)]
    larger = Spreading(THIRD, lab.trust, lab.calls, lab.calls, frozenset)
    lab.trust.meeting = larger._meet
    lab.trust.met(OTHER)
    await settled()
    assert lab.calls.made == [(THIRD, BANS_PROTOCOL)]


@pytest.mark.parametrize("trouble", [PeerUnreachable("busy"), ProtocolRefused("starting")])
async def test_who_does_not_answer_is_told_again_for_a_while(
    lab: Lab, autojump_clock: MockClock, trouble: MyxoError
) -> None:
    lab.calls.connected = {OTHER}
    lab.calls.trouble[OTHER] = trouble
    start = trio.current_time()
    lab.spreading.spread(None, bans=[ban(lab)])
    await settled()
    assert [t - start for t in lab.calls.times] == [0, 1, 6, 31]


async def test_who_answers_or_is_gone_or_refuses_is_not_told_again(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.calls.trouble[OTHER] = CallRefused("refused", "too old")
    lab.spreading.spread(None, bans=[ban(lab)])
    await settled()
    assert sorted(lab.calls.made) == [(OTHER, BANS_PROTOCOL), (THIRD, BANS_PROTOCOL)]
    lab.calls.made.clear()
    lab.calls.trouble[OTHER] = PeerUnreachable("gone")
    lab.spreading.spread(THIRD, bans=[ban(lab)])
    await trio.sleep(0.5)
    lab.calls.connected.clear()
    await settled()
    assert lab.calls.made == [(OTHER, BANS_PROTOCOL)] * 2


async def test_what_became_of_telling_each_is_known(lab: Lab, autojump_clock: MockClock) -> None:
    lab.calls.trouble[OTHER] = CallRefused("refused", "too old")
    told = {t.peer: t for t in await lab.spreading.tell_bans([ban(lab)])}
    assert (told[OTHER].answer, told[OTHER].why) == (Answer.REFUSED, "too old")
    assert told[THIRD].answer is Answer.TAKEN
    lab.calls.trouble[OTHER] = PeerUnreachable("gone")
    told = {t.peer: t for t in await lab.spreading.tell_bans([ban(lab)])}
    assert told[OTHER].answer is Answer.AWAY


async def test_before_the_commit_the_passphrase_goes_to_listed_members_only(
    lab: Lab, autojump_clock: MockClock
) -> None:
    await change(lab, Stage.PREPARE, ME, OTHER)
    lab.calls.behind = {OTHER, THIRD}
    for peer in (OTHER, THIRD):
        lab.trust.met(peer)
        await lab.spreading._hear(peer, _State(digest=lab.trust.bans.digest, stamp=(0, 1)))
    await settled()
    assert {p for p, protocol in lab.calls.made if protocol == ROTATE_PROTOCOL} == {OTHER}


async def test_a_banned_peer_is_told_nothing_even_if_it_is_listed(
    lab: Lab, autojump_clock: MockClock
) -> None:
    await change(lab, Stage.PREPARE, ME, BANNED, OTHER)
    lab.trust.take_bans([ban(lab)])
    results = []

    async def done(told: object) -> None:
        await trio.lowlevel.checkpoint()
        results.append(told)

    await lab.spreading.tell_rotation([BANNED, OTHER], done)
    assert (BANNED, ROTATE_PROTOCOL) not in lab.calls.made
    assert {r.peer: r.answer for r in results} == {  # type: ignore[attr-defined]
        BANNED: Answer.REFUSED,
        OTHER: Answer.TAKEN,
    }


async def test_who_is_up_to_date_is_not_told_again(lab: Lab, autojump_clock: MockClock) -> None:
    await change(lab, Stage.COMMIT, ME, OTHER)
    lab.trust.met(OTHER)
    await settled()
    assert lab.calls.made == [(OTHER, BANS_PROTOCOL)]


def test_a_passphrase_is_in_no_representation() -> None:
    from overlay.spreading import _Offer  # noqa: PLC0415

    signed = SignedBan.sign(ADMIN, Ban(network="n", peer=ME, version=1)).signed
    assert "hush" not in repr(_Offer(statement=signed, passphrase="hush"))
    assert _Taken(stamp=(1, 1)).stamp == (1, 1)

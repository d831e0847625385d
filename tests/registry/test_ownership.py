"""Whose a name is, against a second, dumb version of the rule."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.identity import Identity
from overlay.names import PeerId, ServiceName
from overlay.revision import Revision, SignedRevision
from overlay.spec import ServiceSpec
from registry.errors import (
    NoSuchService,
    NotOwner,
    RegistryError,
    RevisionConflict,
    WrongGeneration,
)
from registry.ownership import Title, admit

KEYS = [Identity.from_seed(bytes([n]) * 32) for n in range(4)]
ADMIN = KEYS[3].peer_id


@dataclass(frozen=True)
class Step:
    signer: int
    gap: int
    deletes: bool
    editors: frozenset[int]

    def sign(self, number: int) -> SignedRevision:
        return SignedRevision.sign(
            KEYS[self.signer],
            Revision(
                name=ServiceName("hello"),
                number=max(1, number + self.gap),
                spec=None if self.deletes else ServiceSpec(process="true"),
                editors=tuple(KEYS[e].peer_id for e in sorted(self.editors)),
            ),
        )


steps = st.lists(
    st.builds(
        Step,
        signer=st.integers(0, 3),
        gap=st.sampled_from([0, 0, 0, -1, 1]),
        deletes=st.booleans(),
        editors=st.frozensets(st.integers(0, 2)),
    ),
    max_size=12,
)


def _dumb(history: list[SignedRevision], new: SignedRevision) -> bool:
    """Decide from the whole history, with no state."""
    life: list[SignedRevision] = []
    for revision in history:
        life = [] if revision.revision.spec is None else [*life, revision]
    if new.revision.number != len(history) + 1:
        return False
    if not life:
        return new.revision.spec is not None
    return new.owner in {life[0].owner, ADMIN, *life[-1].revision.editors}


@given(steps)
def test_admission_agrees_with_the_whole_history(sequence: list[Step]) -> None:
    title: Title | None = None
    history: list[SignedRevision] = []
    for step in sequence:
        offered = step.sign(len(history) + 1)
        expected = _dumb(history, offered)
        try:
            title = admit(title, offered, ADMIN)
            admitted = True
        except RegistryError:
            admitted = False
        assert admitted == expected
        if admitted:
            history.append(offered)


@given(steps)
def test_nobody_but_a_deletion_changes_whose_a_name_is(sequence: list[Step]) -> None:
    title: Title | None = None
    for step in sequence:
        before = title
        number = title.newest.revision.number if title is not None else 0
        try:
            title = admit(title, step.sign(number + 1), ADMIN)
        except RegistryError:
            continue
        if before is not None and not before.free:
            assert title.owner == before.owner


def _first(signer: int = 0, *, deletes: bool = False) -> SignedRevision:
    return Step(signer, 0, deletes, frozenset()).sign(1)


def test_a_stranger_is_told_whose_the_name_is() -> None:
    title = admit(None, _first(), None)
    with pytest.raises(NotOwner) as refused:
        admit(title, Step(1, 0, False, frozenset()).sign(2), None)
    assert refused.value.owner == KEYS[0].peer_id
    assert str(KEYS[0].peer_id) in str(refused.value)


def test_a_stranger_with_a_wrong_number_is_told_that_it_is_not_theirs() -> None:
    title = admit(None, _first(), None)
    with pytest.raises(NotOwner):
        admit(title, Step(1, 0, False, frozenset()).sign(7), None)


def test_what_was_never_there_cannot_be_deleted() -> None:
    with pytest.raises(NoSuchService):
        admit(None, _first(deletes=True), None)


def test_a_first_revision_begins_at_one() -> None:
    with pytest.raises(RevisionConflict) as refused:
        admit(None, Step(0, 0, False, frozenset()).sign(2), PeerId(ADMIN))
    assert refused.value.newest == 0


def _signed(number: int, spec: ServiceSpec, takes_over: int, signer: int = 0) -> SignedRevision:
    revision = Revision(
        name=ServiceName("hello"),
        number=number,
        spec=spec,
        editors=(KEYS[1].peer_id,),
        takes_over=takes_over,
    )
    return SignedRevision.sign(KEYS[signer], revision)


def test_instances_are_taken_over_by_what_they_serve_and_by_nothing_else() -> None:
    small = ServiceSpec(process="true", max_instances=1)
    large = ServiceSpec(process="true", max_instances=9)
    other = ServiceSpec(process="false")
    second = admit(admit(None, _signed(1, small, 0), None), _signed(2, large, 1), None)
    assert admit(second, _signed(3, small, 1), None).newest.revision.generation == 1
    assert admit(second, _signed(3, small, 0), None).newest.revision.generation == 3
    for wrong in (_signed(3, small, 2), _signed(3, other, 1), _signed(3, small, 1, signer=1)):
        with pytest.raises(WrongGeneration, match="do not serve what is added"):
            admit(second, wrong, None)

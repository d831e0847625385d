"""Who may have which image of a machine, asked as its members ask."""

from dataclasses import dataclass, field

import pytest
import trio

from allocator.images.messages import ImageRequest
from allocator.images.plan import digest_of
from allocator.images.rights import ImageRights
from allocator.images.services import ImageServices
from allocator.images.sharing import Sharing, told
from overlay.calls import CallRefused
from overlay.definitions import UnknownService
from overlay.identity import Identity
from overlay.names import Digest, PeerId, ServiceName
from overlay.records import MAX_IMAGES
from overlay.revision import Revision, SignedRevision
from overlay.spec import Image, ServiceSpec

USER, MEMBER, EDITOR = Identity.generate(), Identity.generate(), Identity.generate()
SECRET, ADDED = digest_of(b"secret"), digest_of(b"added")
ASKER = PeerId("asker")


def revision(
    name: str, image: Digest | None, *, by: Identity = USER, number: int = 1
) -> SignedRevision:
    spec = None
    if image is not None:
        spec = ServiceSpec(image=Image(reference="some", config_digest=image))
    editors = (EDITOR.peer_id,)
    said = Revision(name=ServiceName(name), number=number, spec=spec, editors=editors)
    return SignedRevision.sign(by, said)


@dataclass
class Machine:
    """A machine whose own user is `USER`, and its replica of the definitions."""

    known: dict[ServiceName, SignedRevision] = field(default_factory=dict)
    fetched: set[Digest] = field(default_factory=set)
    everything: bool = False

    def __post_init__(self) -> None:
        self.services = ImageServices(self)

    def names(self) -> list[ServiceName]:
        return list(self.known)

    def get(self, name: ServiceName) -> SignedRevision | None:
        return self.known.get(name)

    async def changed(self) -> None:
        await trio.sleep_forever()

    async def resolve(self, name: ServiceName, asker: PeerId) -> SignedRevision:
        await trio.lowlevel.checkpoint()
        assert asker == ASKER
        if name not in self.known:
            raise UnknownService(name, [])
        return self.known[name]

    def add(self, given: SignedRevision) -> SignedRevision:
        self.known[given.revision.name] = given
        self.services = ImageServices(self)
        return given

    def sharing(self) -> Sharing:
        return Sharing(self.fetched, {USER.peer_id}, self.everything)

    async def ask(self, given: SignedRevision) -> Digest:
        rights = ImageRights(self, self.services, self.sharing)
        return await rights.named(ASKER, ImageRequest(revision=given.signed))


async def refusal(machine: Machine, given: SignedRevision) -> str:
    with pytest.raises(CallRefused) as caught:
        await machine.ask(given)
    return str(caught.value.code)


async def test_what_this_machines_user_added_is_handed_on() -> None:
    machine = Machine()
    assert await machine.ask(machine.add(revision("hello", ADDED))) == ADDED


async def test_a_member_that_names_an_image_of_the_engine_does_not_get_it() -> None:
    machine = Machine()
    mine = machine.add(revision("mine", SECRET, by=MEMBER))
    assert await refusal(machine, mine) == "not_shared"
    newer = revision("mine", SECRET, by=MEMBER, number=2)
    assert await refusal(machine, newer) == "not_shared"


async def test_an_editor_of_a_users_service_does_not_get_what_the_user_did_not_add() -> None:
    machine = Machine()
    machine.add(revision("hello", ADDED))
    assert await refusal(machine, revision("hello", SECRET, by=EDITOR, number=2)) == "not_shared"


async def test_what_myxo_fetched_is_handed_on_whoevers_service_names_it() -> None:
    machine = Machine(fetched={ADDED})
    assert await machine.ask(machine.add(revision("theirs", ADDED, by=MEMBER))) == ADDED


async def test_a_members_service_on_an_image_that_the_user_added_too_gets_it() -> None:
    machine = Machine()
    theirs = machine.add(revision("theirs", ADDED, by=MEMBER))
    assert await refusal(machine, theirs) == "not_shared"
    machine.add(revision("hello", ADDED))
    assert await machine.ask(theirs) == ADDED


async def test_an_operator_can_have_every_image_handed_on() -> None:
    machine = Machine(everything=True)
    assert await machine.ask(machine.add(revision("mine", SECRET, by=MEMBER))) == SECRET


async def test_what_the_user_added_once_and_changed_since_is_not_handed_on() -> None:
    machine = Machine()
    old = machine.add(revision("hello", SECRET))
    machine.add(revision("hello", ADDED, number=2))
    assert await refusal(machine, old) == "unknown_service"
    mine = machine.add(revision("mine", SECRET, by=MEMBER))
    assert await refusal(machine, mine) == "not_shared"


async def test_a_service_that_nobody_registered_or_that_has_no_image_gets_nothing() -> None:
    machine = Machine(everything=True)
    assert await refusal(machine, revision("never", SECRET)) == "unknown_service"
    machine.add(revision("hello", ADDED))
    assert await refusal(machine, revision("hello", None, number=2)) == "unknown_service"


async def test_a_revision_that_was_just_asked_for_is_shown_before_the_replica_has_it() -> None:
    machine = Machine()
    given = revision("hello", ADDED)
    machine.services.heard(given)
    assert machine.services.revision_of(ADDED) == given
    assert machine.services.owners(ADDED) == set(), "hearsay gives nobody a right"


def test_others_hear_of_no_image_that_no_service_names() -> None:
    assert told([SECRET, ADDED], {ADDED}, ()) == (ADDED,)
    assert told([SECRET, ADDED], (), {SECRET}) == (SECRET,)
    many = [digest_of(str(n).encode()) for n in range(MAX_IMAGES + 5)]
    assert told(many, set(many), ()) == tuple(many[:MAX_IMAGES]), "the newest"

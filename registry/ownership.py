"""Who may say what a name means.

A name belongs to the key that signed the first revision of its present life: revision 1, or the
first one after a deletion. Its owner, the editors that its newest revision lists, and the network's
admin may add revisions; none of them changes whose name it is. Only a deletion sets a name free.
An admin reassigns a name by listing its new people as editors, or by deleting it.

Numbers leave no gap: a revision is taken only where it is the newest one's number plus one. So of
two people who change a name at once one learns that the other came first.

A revision takes over the instances that it may (`overlay/generation.py`), or none.

Pure: both stores decide by `admit` and differ only in how they make the decision atomic.
"""

from dataclasses import dataclass

from overlay.generation import taken_over
from overlay.names import PeerId
from overlay.revision import SignedRevision
from registry.errors import NoSuchService, NotOwner, RevisionConflict, WrongGeneration


@dataclass(frozen=True, slots=True)
class Title:
    """What a store knows of a name: whose it is, and what it means now.

    Attributes:
        owner: the key that signed the first revision since the name was last free.
        newest: the newest revision; without a spec, the name is free.
    """

    owner: PeerId
    newest: SignedRevision

    @property
    def free(self) -> bool:
        """Whether the service was deleted, so that any key may take the name."""
        return self.newest.revision.spec is None


def admit(title: Title | None, offered: SignedRevision, admin: PeerId | None) -> Title:
    """Return the name's title after `offered` is added to it.

    Args:
        title: what is known of the name; None if nothing ever was.
        offered: the revision to add; its signature is verified by its type.
        admin: the network founder's key, if the network has one.

    Raises:
        NoSuchService: a deletion of a name that is free.
        NotOwner: the signer has no say over the name.
        RevisionConflict: the number is not the next one.
        WrongGeneration: it takes over instances that do not serve it.
    """
    revision, signer = offered.revision, offered.owner
    newest = title.newest.revision.number if title is not None else 0
    if title is None or title.free:
        if revision.spec is None:
            raise NoSuchService(revision.name)
        owner = signer
    else:
        owner = title.owner
        if signer not in {owner, admin, *title.newest.revision.editors}:
            raise NotOwner(revision.name, owner, signer)
    if revision.number != newest + 1:
        raise RevisionConflict(revision.name, newest, revision.number)
    may = taken_over(None if title is None else title.newest, revision.spec, signer)
    if revision.takes_over not in {0, may}:
        raise WrongGeneration(revision.name, revision.takes_over)
    return Title(owner, offered)

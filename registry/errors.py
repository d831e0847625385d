"""What can go wrong with definitions, by what the caller can do next."""

from overlay.errors import MyxoError
from overlay.names import PeerId, ServiceName


class RegistryError(MyxoError):
    """Root of the registry's own errors."""


class RevisionConflict(RegistryError):
    """Someone else's revision came first; look at the newest one and try again.

    Attributes:
        newest: the number of the newest revision, 0 if the name has none.
    """

    def __init__(self, name: ServiceName, newest: int, offered: int) -> None:
        self.newest = newest
        super().__init__(
            f"{name} is at revision {newest}, so the next one is {newest + 1}, not {offered}; "
            "somebody else changed it meanwhile: look at it with `registry-cli get` and try again"
        )


class WrongGeneration(RegistryError):
    """The revision takes over instances that do not serve it."""

    def __init__(self, name: ServiceName, takes_over: int) -> None:
        super().__init__(
            f"the instances of {name} at revision {takes_over} do not serve what is added; "
            "add it once more with `registry-cli add`, of this or a newer version"
        )


class NotOwner(RegistryError):
    """The name belongs to another key.

    Attributes:
        owner: the key that owns it.
    """

    def __init__(self, name: ServiceName, owner: PeerId, signer: PeerId) -> None:
        self.owner = owner
        super().__init__(
            f"{name} belongs to {owner}, and {signer} is neither that key nor one of its editors; "
            f"ask its owner for `registry-cli add --editor {signer} …`, or take another name"
        )


class NoSuchService(RegistryError):
    """There is nothing by this name to delete."""

    def __init__(self, name: ServiceName) -> None:
        super().__init__(f"there is no service {name}; `registry-cli list` shows what there is")


class StoreFull(RegistryError):
    """The store holds as much as every replica is able to; delete something first."""


class StoreUnavailable(RegistryError):
    """The store does not answer now; trying again later may do."""


class StoreMisused(RegistryError):
    """The store cannot be opened the way it was asked for; a person has to act."""


class ConfInvalid(RegistryError):
    """The service's configuration file has a mistake; nothing was built or registered."""


class EngineUnavailable(RegistryError):
    """No container engine answers."""


class ImageNotFound(RegistryError):
    """The image is neither here nor to be had."""


class BuildFailed(RegistryError):
    """The image could not be built; nothing was registered."""


class PushFailed(RegistryError):
    """The image could not be pushed; nothing was registered."""

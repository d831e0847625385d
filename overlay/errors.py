"""What can go wrong between peers, by what the caller can do next."""


class MyxoError(Exception):
    """Root of every error that Myxo raises for a person or a caller to act on."""


class InvalidName(MyxoError):
    """The text is not a service name; nothing was looked up."""

    def __init__(self, text: str) -> None:
        self.text = text[:80]
        super().__init__(
            f"{self.text!r} is not a service name: use 1 to 63 of a-z 0-9 . _ : - and begin and "
            "end with a letter or digit"
        )


class PeerUnreachable(MyxoError):
    """No connection to the peer could be made, or it was lost; another peer may do."""


class PassphraseRefused(PeerUnreachable):
    """The peer answers on its address but does not share this network's passphrase."""


class PeerRefused(PeerUnreachable):
    """One of the two peers refuses the other, for as long as nobody changes its mind."""


class ProtocolRefused(MyxoError):
    """The peer is there but does not speak this protocol or version."""


class StreamCut(PeerUnreachable):
    """The stream ended in the middle of a message, or without its end mark."""


class MalformedMessage(MyxoError):
    """The other end sent bytes that are no message of this protocol; drop it, tell it, go on."""


class RecordRefused(MyxoError):
    """A record was not taken into the view.

    Attributes:
        reason: one word for the metric's label, such as `signature` or `size`.
    """

    def __init__(self, reason: str, text: str) -> None:
        self.reason = reason
        super().__init__(text)


class StatementRefused(MyxoError):
    """What was said in the name of the network's admin was not taken, and why."""


class SignatureInvalid(MyxoError):
    """The signature does not belong to these bytes and this key."""


class SettingsInvalid(MyxoError):
    """A flag, variable or file holds something that cannot be used; nothing was started."""


class AddressTaken(MyxoError):
    """The address to listen on is in use by another process."""


def alone(exc: BaseException) -> BaseException:
    """Return the one error in groups that have no other, as nurseries put around it."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc

"""Why a benchmark could not be measured."""


class NetworkFailed(Exception):
    """The network did not do what was asked of it; what it said is in the message."""


class HopMissing(Exception):
    """A program to compare with is not installed; the message says what to install."""


class BrowserFailed(Exception):
    """The browser did not do what was asked of it.

    Attributes:
        error: WebDriver's code of the error.
    """

    def __init__(self, error: str, message: str) -> None:
        super().__init__(f"the browser refused: {error}: {message}")
        self.error = error

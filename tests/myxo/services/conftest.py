from collections.abc import Iterator

import pytest

from myxo.services.testing import Service, serving


@pytest.fixture
def service() -> Iterator[Service]:
    """A service; its address stands for a proxy's."""
    with serving() as its:
        yield its

import pytest

from bench.lab.errors import BadInput
from bench.lab.loading.target import target_of


def test_a_url_is_asked_where_it_says() -> None:
    target = target_of("https://example.org:8443/a/b?c=d")
    assert (target.scheme, target.host, target.port) == ("https", "example.org", 8443)
    assert target.url() == "https://example.org:8443/a/b?c=d"
    assert target.url("/x") == target.url("x") == "https://example.org:8443/a/b/x"
    assert not target.of_myxo


def test_a_service_is_asked_at_the_proxy_of_this_machine() -> None:
    target = target_of("hello-world-server/path?q=1", "127.0.0.1:4299")
    assert target.url() == "http://127.0.0.1:4299/hello-world-server/path?q=1"
    assert target.of_myxo
    assert target.name == "hello-world-server/path?q=1"


@pytest.mark.parametrize(
    "text",
    ["ftp://example.org/", "http:///path", "http://a:b@example.org/", "http://h:x/", "Not A Name"],
)
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"URL|service"):
        target_of(text)

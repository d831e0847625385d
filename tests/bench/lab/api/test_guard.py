"""Who is answered, and who is not."""

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.api.guard import refusal

TOKEN = "correct-horse-battery"
HERE = {"host": "127.0.0.1:5001"}
BEARER = {"host": "lab.example:5001", "authorization": f"Bearer {TOKEN}"}


def status(headers: dict[str, str], client: str = "127.0.0.1", **more: object) -> HTTPStatus | None:
    asked = {"token": "", "in_api": True} | more
    refused = refusal(headers, client, **asked)  # type: ignore[arg-type]
    return None if refused is None else refused.status


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:5001", "[::1]:5001", "x.localhost"])
def test_this_machine_is_answered_without_a_token(host: str) -> None:
    assert status({"host": host}) is None


def test_who_comes_over_a_unix_socket_is_of_this_machine() -> None:
    assert status(HERE, client="") is None


def test_another_machine_is_refused_without_a_token_whatever_it_says() -> None:
    assert status(HERE, client="10.0.0.7") is HTTPStatus.FORBIDDEN
    assert status(HERE, client="10.0.0.7", in_api=False) is HTTPStatus.FORBIDDEN


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "10.0.0.1"])
@pytest.mark.parametrize("in_api", [True, False])
def test_a_name_that_was_made_to_point_here_is_refused(host: str, in_api: bool) -> None:
    assert status({"host": host}, in_api=in_api) is HTTPStatus.MISDIRECTED_REQUEST


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_page_of_another_site_may_not_ask(headers: dict[str, str]) -> None:
    assert status(HERE | headers) is HTTPStatus.FORBIDDEN
    assert status(BEARER | headers, token=TOKEN) is HTTPStatus.FORBIDDEN


def test_the_page_itself_may_ask_and_can_be_linked_to() -> None:
    own = {"origin": "http://127.0.0.1:5001", "sec-fetch-site": "same-origin"}
    assert status(HERE | own) is None
    assert status(HERE | {"sec-fetch-site": "cross-site"}, in_api=False) is None


def test_with_the_token_anybody_is_answered_from_anywhere() -> None:
    assert status(BEARER, client="10.0.0.7", token=TOKEN) is None
    assert status(BEARER | {"authorization": f"bearer  {TOKEN}"}, token=TOKEN) is None


@pytest.mark.parametrize(
    "said", ["", "Bearer", TOKEN, f"Basic {TOKEN}", "Bearer wrong", "Bearer é"]
)
def test_without_the_right_token_nobody_is(said: str) -> None:
    assert status(BEARER | {"authorization": said}, token=TOKEN) is HTTPStatus.UNAUTHORIZED
    assert status(HERE | {"authorization": said}, token=TOKEN) is HTTPStatus.UNAUTHORIZED


def test_the_pages_files_need_no_token() -> None:
    assert status({"host": "lab.example"}, "10.0.0.7", token=TOKEN, in_api=False) is None


@given(
    headers=st.dictionaries(
        st.sampled_from(["host", "origin", "sec-fetch-site", "authorization"]), st.text()
    ),
    client=st.text(),
    in_api=st.booleans(),
)
def test_whatever_is_said_is_judged_and_only_the_token_opens(
    headers: dict[str, str], client: str, in_api: bool
) -> None:
    refused = refusal(headers, client, token=TOKEN, in_api=in_api)
    assert (refused is None) == (not in_api)

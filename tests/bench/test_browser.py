import httpx

from bench.browser import CHANGED, Browser


def test_a_page_that_chromium_gave_up_for_an_interface_is_loaded_again() -> None:
    asked: list[str] = []
    logs = [[f"http://localhost/main.js - net::{CHANGED}", "lost"], ["kept"]]

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        lines = logs.pop(0) if request.url.path == "/se/log" and logs else []
        return httpx.Response(200, json={"value": [{"message": line} for line in lines]})

    transport = httpx.MockTransport(answer)
    with httpx.Client(transport=transport, base_url="http://driver") as session:
        browser = Browser(session)
        browser.open("http://localhost/")
        assert asked == ["/url", "/se/log", "/refresh", "/se/log"]
        assert browser.logged() == ["lost", "kept"]
        assert browser.logged() == []

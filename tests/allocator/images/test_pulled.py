from allocator.images.pulled import Pulled


def line(layer: str, status: str, current: int = 0, total: int = 0) -> dict[str, object]:
    return {"id": layer, "status": status, "progressDetail": {"current": current, "total": total}}


def test_what_is_downloaded_counts_once_although_it_is_unpacked_later() -> None:
    pulled = Pulled()
    for told in (
        {"status": "Pulling from team/web", "id": "1"},
        line("a", "Downloading", 10, 100),
        line("b", "Downloading", 50, 50),
        line("a", "Downloading", 60, 100),
        line("b", "Extracting", 5, 50),
    ):
        pulled.take(told)
    assert (pulled.done_bytes, pulled.total_bytes, pulled.steps) == (110, 150, 5)


def test_a_layer_that_is_done_is_whole_although_its_last_bytes_were_not_told() -> None:
    pulled = Pulled()
    pulled.take(line("a", "Downloading", 60, 100))
    pulled.take({"status": "Download complete", "id": "a", "progressDetail": {}})
    pulled.take({"status": "Already exists", "id": "c"})
    pulled.take({"status": "Download complete", "id": "small"})
    assert (pulled.done_bytes, pulled.total_bytes) == (100, 100)

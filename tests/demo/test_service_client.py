"""How the demo reads what the service streams."""

from app.demo.service_client import Event, parse_events


def test_events_are_read_with_their_names_and_comments_are_skipped() -> None:
    lines = ["id: 1.1", "event: epoch", 'data: {"epoch": 1}', "", ": keep-alive", "", "event: status", "data: {}", ""]
    assert list(parse_events(lines)) == [Event("epoch", {"epoch": 1}), Event("status", {})]


def test_an_event_that_is_cut_off_is_left_out() -> None:
    assert list(parse_events(["event: epoch", 'data: {"epoch"'])) == []

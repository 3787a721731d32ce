"""Bytes in blocks of any size become numbered lines."""

import gzip
from collections.abc import Iterable

import pytest

from app.errors import BadInput
from app.imports import line_reader
from app.imports.line_reader import DamagedStream, LineReader

TEXT = "ann,dune\r\n\nbob,d\u00fcne\ncleo"
LINES = [(1, "ann,dune"), (2, ""), (3, "bob,d\u00fcne"), (4, "cleo")]


def read(blocks: Iterable[bytes], reader: LineReader) -> tuple[list[tuple[int, str]], dict[int, str]]:
    """Every line with its number, and the reasons of the bad ones."""
    numbered: list[tuple[int, str]] = []
    bad: dict[int, str] = {}
    for lines in (*(lines for block in blocks for lines in reader.feed(block)), *reader.finish()):
        numbered += enumerate(lines.texts, lines.first_number)
        bad |= lines.bad
    return numbered, bad


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        gzip.compress(TEXT.encode("utf-8-sig")),
        gzip.compress(TEXT[:9].encode()) + gzip.compress(TEXT[9:].encode()) + bytes(100),
    ],
    ids=["plain", "byte order mark", "gzip", "padded gzip in two members"],
)
def test_blocks_may_end_anywhere(content: bytes, size: int) -> None:
    blocks = [content[start : start + size] for start in range(0, len(content), size)]
    assert read(blocks, LineReader()) == (LINES, {})


def test_a_line_in_another_encoding_is_bad_and_the_others_are_read() -> None:
    content = "ann\nd\u00fcne\nbob".encode("latin-1")
    lines, bad = read([content], LineReader())
    assert lines == [(1, "ann"), (2, ""), (3, "bob")]
    assert bad == {2: "is not utf-8 text: byte 2 is 0xfc"}
    assert read([content], LineReader("latin-1")) == ([(1, "ann"), (2, "d\u00fcne"), (3, "bob")], {})


def test_a_line_that_is_too_long_is_bad_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_reader, "MAX_LINE_BYTES", 10)
    lines, bad = read([b"ann\n", *[b"x" * 8] * 1000, b"\nbob"], LineReader())
    assert (lines, bad) == ([(1, "ann"), (2, ""), (3, "bob")], {2: "is longer than 10 bytes"})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(TEXT.encode())[:-3], "ends unexpectedly"),
        (gzip.compress(TEXT.encode())[:10] + b"\xff" * 20, "is damaged"),
        (gzip.compress(b"\n" * 100_000_000), "decompresses to more than 200 times its size"),
    ],
)
def test_a_damaged_or_malicious_gzip_stream_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(DamagedStream, match=reason):
        read([content], LineReader())


def test_utf_16_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="is UTF-16 text; save it as UTF-8"):
        read([TEXT.encode("utf-16")], LineReader())

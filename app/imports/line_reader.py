"""A stream of bytes of any length as numbered text lines: gzip, byte order marks, CRLF and wrong encodings."""

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from app.errors import BadInput
from app.imports.file_options import Encoding as Encoding

MAX_LINE_BYTES = 1 << 20
_PIECE_BYTES = 4 << 20
_MOST_UNPACKED = 200
"""Times the packed bytes: files of ratings shrink to a tenth, a thousandth is made to keep the service busy."""
_UNPACKED_FREELY = 1 << 26
_GZIP = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Lines(NamedTuple):
    """Consecutive lines without their ends; a line that cannot be read is empty here and has its reason in `bad`."""

    first_number: int
    texts: list[str]
    bad: dict[int, str]


class DamagedStream(Exception):
    """The rest of the stream cannot be unpacked."""


class LineReader:
    """Takes blocks of bytes as they arrive, gives the lines that are complete. The first line has number 1."""

    def __init__(self, encoding: Encoding = "utf-8") -> None:
        self._encoding = encoding
        self._head = b""
        self._gunzip: _Gunzip | None = None
        self._is_opened = False
        self._carry = b""
        self._is_skipping = False  # inside a line that is too long to keep
        self._next_number = 1

    def feed(self, block: bytes) -> Iterator[Lines]:
        """The lines that end in this block; DamagedStream when it cannot be unpacked."""
        if not self._is_opened:
            self._head += block
            if len(self._head) < len(_GZIP):
                return
            block = self._open()
        yield from self._lines(block)

    def finish(self) -> Iterator[Lines]:
        """The last line when no line end follows it; DamagedStream when the stream broke off while packed."""
        if not self._is_opened:
            yield from self._lines(self._open())
        if self._gunzip is not None and not self._gunzip.is_at_end:
            raise DamagedStream("the gzip stream ends unexpectedly")
        if self._carry or self._is_skipping:
            yield self._split(b"\n")

    def _open(self) -> bytes:
        block, self._head, self._is_opened = self._head, b"", True
        if block.startswith(_GZIP):
            self._gunzip = _Gunzip()
        elif block.startswith(_UTF16_MARKS):
            raise BadInput.at("body", "is UTF-16 text; save it as UTF-8")
        return block

    def _lines(self, block: bytes) -> Iterator[Lines]:
        for piece in self._gunzip.feed(block) if self._gunzip else (block,):
            lines = self._split(piece)
            if lines.texts:
                yield lines

    def _split(self, piece: bytes) -> Lines:
        end = piece.rfind(b"\n")
        if end < 0:
            self._keep(piece)
            return Lines(self._next_number, [], {})
        block = self._carry + piece[:end]
        lines = self._decoded(block.removeprefix(_UTF8_MARK) if self._next_number == 1 else block)
        self._carry = b""
        if self._is_skipping:
            lines.texts[0] = ""
            lines.bad[lines.first_number] = f"is longer than {MAX_LINE_BYTES} bytes"
            self._is_skipping = False
        self._keep(piece[end + 1 :])
        self._next_number += len(lines.texts)
        return lines

    def _keep(self, rest: bytes) -> None:
        if self._is_skipping or len(self._carry) + len(rest) > MAX_LINE_BYTES:
            self._carry, self._is_skipping = b"", True
        else:
            self._carry += rest

    def _decoded(self, block: bytes) -> Lines:
        block = block.replace(b"\r\n", b"\n").removesuffix(b"\r")
        try:
            return Lines(self._next_number, block.decode(self._encoding).split("\n"), {})
        except UnicodeDecodeError:
            return self._decoded_one_by_one(block)

    def _decoded_one_by_one(self, block: bytes) -> Lines:
        texts: list[str] = []
        bad: dict[int, str] = {}
        for number, line in enumerate(block.split(b"\n"), self._next_number):
            try:
                texts.append(line.decode(self._encoding))
            except UnicodeDecodeError as error:
                texts.append("")
                bad[number] = f"is not {self._encoding} text: byte {error.start + 1} is 0x{line[error.start]:02x}"
        return Lines(self._next_number, texts, bad)


class _Gunzip:
    """Unpacks a gzip stream, several members included, in pieces of bounded size."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._n_unpacked_allowed = _UNPACKED_FREELY

    @property
    def is_at_end(self) -> bool:
        return self._member.eof

    def feed(self, block: bytes) -> Iterator[bytes]:
        """What the block unpacks to; the last piece may have been held back inside zlib, so a full one asks again."""
        is_full = False
        self._n_unpacked_allowed += _MOST_UNPACKED * len(block)
        while block or is_full:
            if self._member.eof:
                block = block.lstrip(b"\0")  # padding between members is allowed
                if not block:
                    return
                self._member = zlib.decompressobj(wbits=31)
            try:
                piece = self._member.decompress(block, _PIECE_BYTES)
            except zlib.error as error:
                raise DamagedStream(f"the gzip stream is damaged ({error})") from error
            block = self._member.unused_data or self._member.unconsumed_tail
            is_full = len(piece) == _PIECE_BYTES
            self._n_unpacked_allowed -= len(piece)
            if self._n_unpacked_allowed < 0:
                raise DamagedStream(f"the gzip stream decompresses to more than {_MOST_UNPACKED} times its size")
            if piece:
                yield piece

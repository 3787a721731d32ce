"""Rows of an SQLite query straight into arrays: SQLite's own functions, called from a compiled loop.

Python's driver makes an object of every number, which costs several times what SQLite does. Here the loop that steps
through the rows is machine code and holds no interpreter lock. The functions are those of the very SQLite that
Python's driver is linked with (two copies in one process would undo each other's file locks), found through the
driver's own library; where it hides them, `open_native` says no and the driver reads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import float32, float64, int32, int64, njit, types
from numba.extending import intrinsic

_ROW, _DONE, _OK = 100, 101, 0
_READ_ONLY, _NO_MUTEX = 0x1, 0x8000
_ANY = ir.IntType(8).as_pointer()
_intrinsic: Any = intrinsic  # what it makes is called from kernels only, with other arguments than it is written with


class NotNative(Exception):
    """SQLite cannot be spoken to directly here: says why. Python's driver can do the same, only slower."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the rows of a query go: its first three columns, and a fourth where `revisions` has room at all."""

    user_keys: npt.NDArray[np.int32]
    item_keys: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    revisions: npt.NDArray[np.int64]

    @classmethod
    def with_room(cls, n: int, *, for_revisions: bool = False) -> Columns:
        revisions = np.empty(n if for_revisions else 0, np.int64)
        return cls(np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.float32), revisions)


class NativeReader:
    """A connection of our own to the file, inside a read transaction."""

    def __init__(self, handle: ctypes.c_void_p) -> None:
        self._handle = handle

    def number(self, query: str) -> int:
        """The one number that a query gives."""
        columns = Columns.with_room(1, for_revisions=True)
        if self.read(f"SELECT 0, 0, 0, ({query})", (), columns) != 1:
            raise NotNative("an answer of one number was expected")
        return int(columns.revisions[0])

    def read(self, query: str, parameters: tuple[int, ...], columns: Columns) -> int:
        """Rows written to `columns`: as many as the query has, or as there is room for."""
        library = _library()
        statement = ctypes.c_void_p()
        _expect_ok(
            library.sqlite3_prepare_v2(self._handle, query.encode(), -1, ctypes.byref(statement), None), "prepare"
        )
        try:
            for place, parameter in enumerate(parameters, start=1):
                _expect_ok(library.sqlite3_bind_int64(statement, place, parameter), "bind")
            code = np.zeros(1, np.int64)
            step, of_integer, of_double = _addresses()
            arrays = columns.user_keys, columns.item_keys, columns.values, columns.revisions
            n = int(_read_rows(step, of_integer, of_double, statement.value or 0, *arrays, code))
        finally:
            library.sqlite3_finalize(statement)
        if code[0] not in (_ROW, _DONE):
            raise NotNative(f"SQLite stopped with code {code[0]}")
        return n

    def execute(self, command: str) -> None:
        _expect_ok(_library().sqlite3_exec(self._handle, command.encode(), None, None, None), command)


class KeptQuery:
    """A query of one text, prepared once on a connection of its own; the answers are of the moment, one thread asks.

    Its columns are a key of what is asked for and, row by row, a positive key, a value and a revision; a row without
    the second key counts only for the first.
    """

    def __init__(self, path: str, query: str, room: int) -> None:
        """Raises NotNative where the functions or the file cannot be had."""
        library = _library()
        self._handle, self._statement = _opened(path), ctypes.c_void_p()
        try:
            _expect_ok(
                library.sqlite3_prepare_v2(self._handle, query.encode(), -1, ctypes.byref(self._statement), None),
                "prepare",
            )
        except NotNative:
            self.close()
            raise
        self._bind, self._reset = library.sqlite3_bind_text, library.sqlite3_reset
        self._keys, self._values, self._told = np.empty(room, np.int64), np.empty(room), np.zeros(3, np.int64)

    def ask(self, text: str) -> tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float64], int] | None:
        """The first key (0: no row), the second ones, their values and the highest revision.

        None where Python's driver must answer: there is no room for the rows, or SQLite raises an error.
        """
        plain = text.encode()
        self._bind(self._statement, 1, plain, len(plain), None)  # not copied: it outlives the reset
        n = _read_one(*_addresses(), self._statement.value or 0, self._keys, self._values, self._told)
        self._reset(self._statement)
        code, key, newest = self._told.tolist()
        return (key, self._keys[:n].copy(), self._values[:n].copy(), newest) if code == _DONE else None

    def close(self) -> None:
        _library().sqlite3_finalize(self._statement)
        _library().sqlite3_close(self._handle)


@contextmanager
def open_native(path: str) -> Iterator[NativeReader]:
    """A reader of the file as of one moment; raises NotNative where the functions or the file cannot be had."""
    handle = _opened(path)
    try:
        reader = NativeReader(handle)
        reader.execute("BEGIN")
        yield reader
    finally:
        _library().sqlite3_close(handle)


def _opened(path: str) -> ctypes.c_void_p:
    library, handle = _library(), ctypes.c_void_p()
    code = library.sqlite3_open_v2(path.encode(), ctypes.byref(handle), _READ_ONLY | _NO_MUTEX, None)
    if code != _OK:
        library.sqlite3_close(handle)
    _expect_ok(code, "open")
    return handle


def _expect_ok(code: int, action: str) -> None:
    if code != _OK:
        raise NotNative(f"SQLite refuses to {action} (code {code})")


@cache
def _library() -> Any:
    """The driver's library; a look-up in it finds what it is linked with."""
    import _sqlite3

    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    try:
        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_open_v2.argtypes = [text, ctypes.POINTER(pointer), ctypes.c_int, text]
        library.sqlite3_exec.argtypes = [pointer, text, pointer, pointer, pointer]
        library.sqlite3_prepare_v2.argtypes = [pointer, text, ctypes.c_int, ctypes.POINTER(pointer), pointer]
        library.sqlite3_bind_int64.argtypes = [pointer, ctypes.c_int, ctypes.c_int64]
        library.sqlite3_bind_text.argtypes = [pointer, ctypes.c_int, text, ctypes.c_int, pointer]
        library.sqlite3_reset.argtypes = [pointer]
        library.sqlite3_finalize.argtypes = library.sqlite3_close.argtypes = [pointer]
        _ = library.sqlite3_step, library.sqlite3_column_int64, library.sqlite3_column_double
    except (AttributeError, OSError) as missing:  # built into the interpreter, or its names are hidden
        raise NotNative(f"the driver's own SQLite cannot be called: {missing}") from missing
    return library


@cache
def _addresses() -> tuple[int, int, int]:
    library = _library()
    functions = (library.sqlite3_step, library.sqlite3_column_int64, library.sqlite3_column_double)
    step, of_int, of_double = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions)
    return step, of_int, of_double


def _call(builder: Any, result: ir.Type, address: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(builder.inttoptr(address, kind.as_pointer()), arguments)


@_intrinsic
def _step(_typing: Any, _function: Any, _statement: Any) -> Any:
    """sqlite3_step(statement) -> code"""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _call(builder, ir.IntType(32), arguments[0], builder.inttoptr(arguments[1], _ANY))

    return types.int32(types.int64, types.int64), generate


@_intrinsic
def _integer(_typing: Any, _function: Any, _statement: Any, _column: Any) -> Any:
    """sqlite3_column_int64(statement, column)"""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _call(builder, ir.IntType(64), arguments[0], builder.inttoptr(arguments[1], _ANY), arguments[2])

    return types.int64(types.int64, types.int64, types.int32), generate


@_intrinsic
def _double(_typing: Any, _function: Any, _statement: Any, _column: Any) -> Any:
    """sqlite3_column_double(statement, column)"""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _call(builder, ir.DoubleType(), arguments[0], builder.inttoptr(arguments[1], _ANY), arguments[2])

    return types.float64(types.int64, types.int64, types.int32), generate


@njit(
    int64(int64, int64, int64, int64, int32[::1], int32[::1], float32[::1], int64[::1], int64[::1]),
    nogil=True,
    cache=True,
)
def _read_rows(
    step: int,
    integer_of: int,
    double_of: int,
    statement: int,
    user_keys: npt.NDArray[np.int32],
    item_keys: npt.NDArray[np.int32],
    values: npt.NDArray[np.float32],
    revisions: npt.NDArray[np.int64],
    code: npt.NDArray[np.int64],
) -> int:
    """Steps until the rows or the room ends; returns how many were written.   code [1]: SQLite's last answer"""
    at = 0
    code[0] = 100
    while at < user_keys.size:
        code[0] = _step(step, statement)
        if code[0] != 100:
            break
        user_keys[at] = int32(_integer(integer_of, statement, int32(0)))
        item_keys[at] = int32(_integer(integer_of, statement, int32(1)))
        values[at] = float32(_double(double_of, statement, int32(2)))
        if revisions.size > 0:
            revisions[at] = _integer(integer_of, statement, int32(3))
        at += 1
    return at


@njit(
    int64(int64, int64, int64, int64, int64[::1], float64[::1], int64[::1]),
    nogil=True,
    cache=True,
)
def _read_one(
    step: int,
    integer_of: int,
    double_of: int,
    statement: int,
    keys: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    told: npt.NDArray[np.int64],
) -> int:
    """As `KeptQuery.ask` says; returns how many were written.   told [3]: SQLite's last answer, first key, revision"""
    at, code, told[1], told[2] = 0, 100, 0, 0
    while True:
        code = _step(step, statement)
        if code != 100:
            break
        told[1] = _integer(integer_of, statement, int32(0))
        key = _integer(integer_of, statement, int32(1))
        if key > 0:
            if at == keys.size:
                break
            keys[at], values[at] = key, _double(double_of, statement, int32(2))
            told[2] = max(told[2], _integer(integer_of, statement, int32(3)))
            at += 1
    told[0] = code
    return at

"""Frames of kvtier's native protocol (docs/formats/native.md): what Python needs of it, packed and unpacked."""

from __future__ import annotations

import struct
from collections.abc import Sequence

VERSION = 1
HEADER = struct.Struct("<IHHQ")
#: A frame of the agent's that is longer than this is none.
MAX_FRAME_BYTES = 64 * 1024 * 1024

HELLO, PING, NAMESPACE, ATTACH, CONTINUE, DETACH, LOOKUP, LOAD, STORE, LET_GO = range(1, 11)
OPEN, RELEASE, RESERVE, COMMIT, ABORT, TOUCH, PREFETCH, PIN, INVALIDATE, EVENTS, EVENT, STATS = range(11, 23)

MISSING, HBM, RAM, SSD, NOT_ADMITTED = range(5)
LOADED = 0
STORED, DUPLICATE = 0, 1
#: Statuses of a refusal.
INVALID, BUSY = 2, 6

Span = tuple[int, int]


class ProtocolError(Exception):
    """The agent said what cannot be; the connection is closed."""


def frame(op: int, tag: int, body: bytes) -> bytes:
    return HEADER.pack(len(body), op, 0, tag) + body


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<H", len(data)) + data


def blob(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value


def keys(values: Sequence[bytes]) -> bytes:
    size = len(values[0]) if values else 0
    if size and all(len(value) == size for value in values):
        return struct.pack("<IH", len(values), size) + b"".join(values)
    return struct.pack("<IH", len(values), 0) + b"".join(struct.pack("<H", len(value)) + value for value in values)


def spans(values: Sequence[Span]) -> bytes:
    flat = [number for span in values for number in span]
    return struct.pack("<I" + "QI" * len(values), len(values), *flat)


class Reader:
    """Takes a body apart; raises ProtocolError where it is not what it should be."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._body):
            raise ProtocolError(f"{size} bytes are named, {len(self._body) - self._at} are left")
        data = self._body[self._at : end]
        self._at = end
        return data

    def number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def text(self) -> str:
        try:
            return self._take(self.number(2)).decode()
        except UnicodeDecodeError as problem:
            raise ProtocolError("a text is no UTF-8") from problem

    def blob(self) -> bytes:
        return self._take(self.number(4))

    def u32s(self) -> tuple[int, ...]:
        count = self.number(4)
        return struct.unpack(f"<{count}I", self._take(4 * count))

    def keys(self) -> list[bytes]:
        count, size = self.number(4), self.number(2)
        return [self._take(size or self.number(2)) for _ in range(count)]

    def spans(self) -> list[Span]:
        return [(self.number(8), self.number(4)) for _ in range(self.number(4))]

    def end(self) -> None:
        if self._at != len(self._body):
            raise ProtocolError(f"{len(self._body) - self._at} bytes are left over")

"""The golden vectors of the protocol (test/fixtures/native-vectors.json), which the TypeScript side is held to as well."""

from __future__ import annotations

import json
import struct
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvtier import wire

VECTORS = Path(__file__).resolve().parents[3] / "test" / "fixtures" / "native-vectors.json"


def keys_of(values: list[str]) -> list[bytes]:
    return [bytes.fromhex(value) for value in values]


def u32s(values: list[int]) -> bytes:
    return struct.pack(f"<I{len(values)}I", len(values), *values)


WRITE: dict[str, Callable[[Any], bytes]] = {
    "u8": lambda value: struct.pack("<B", value),
    "u16": lambda value: struct.pack("<H", value),
    "u32": lambda value: struct.pack("<I", value),
    "u64": lambda value: struct.pack("<Q", value),
    "text": wire.text,
    "blob": lambda value: wire.blob(bytes.fromhex(value)),
    "u8s": lambda value: wire.blob(bytes(value)),
    "u32s": u32s,
    "keys": lambda value: wire.keys(keys_of(value)),
    "spans": lambda value: wire.spans([(offset, size) for offset, size in value]),
}
#: What the client reads.
READ: dict[str, Callable[[wire.Reader], Any]] = {
    "u8": lambda reader: reader.number(1),
    "u16": lambda reader: reader.number(2),
    "u32": lambda reader: reader.number(4),
    "u64": lambda reader: reader.number(8),
    "text": wire.Reader.text,
    "blob": lambda reader: reader.blob().hex(),
    "u8s": lambda reader: list(reader.blob()),
    "u32s": lambda reader: list(reader.u32s()),
    "keys": lambda reader: [key.hex() for key in reader.keys()],
}


class Vectors(unittest.TestCase):
    def setUp(self) -> None:
        content = json.loads(VECTORS.read_text())
        self.vectors = content["vectors"]
        self.assertEqual(content["version"], wire.VERSION)
        self.assertGreater(len(self.vectors), 50)

    def test_frames_are_packed_as_the_vectors_say(self) -> None:
        for vector in self.vectors:
            if vector["status"] != 0:
                continue
            with self.subTest(operation=vector["operation"], direction=vector["direction"], tag=vector["tag"]):
                body = b"".join(WRITE[kind](vector["values"][name]) for name, kind in vector["shape"].items())
                self.assertEqual(wire.frame(vector["op"], vector["tag"], body).hex(), vector["frame"])

    def test_bodies_are_read_as_the_vectors_say(self) -> None:
        for vector in self.vectors:
            frame = bytes.fromhex(vector["frame"])
            size, op, status, tag = wire.HEADER.unpack_from(frame)
            with self.subTest(operation=vector["operation"], direction=vector["direction"], tag=vector["tag"]):
                self.assertEqual((op, status, tag, size), (vector["op"], vector["status"], vector["tag"], len(frame) - 16))
                if any(kind not in READ for kind in vector["shape"].values()):
                    continue
                reader = wire.Reader(frame[16:])
                for name, kind in vector["shape"].items():
                    self.assertEqual(READ[kind](reader), vector["values"][name])
                reader.end()

    def test_a_body_that_is_cut_is_refused(self) -> None:
        for vector in self.vectors:
            if any(kind not in READ for kind in vector["shape"].values()):
                continue
            body = bytes.fromhex(vector["frame"])[16:]
            for end in range(len(body)):
                with self.subTest(operation=vector["operation"], tag=vector["tag"], end=end), self.assertRaises(wire.ProtocolError):
                    reader = wire.Reader(body[:end])
                    for kind in vector["shape"].values():
                        READ[kind](reader)
                    reader.end()

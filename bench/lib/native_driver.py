"""The Python side of bench:native: does what it is told in lines of JSON, answers each in one, with what was measured here.

Lookups go through kvtier.client as an engine's do; memcpy and redis-server are measured by the same process, beside it.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "engines" / "python"))

from kvtier.client import Client, Namespace  # noqa: E402
from kvtier.region import Region, next_number  # noqa: E402

MIB = 1024 * 1024


class FileRegion(Region):
    """Not sealed: a file under /dev/shm, as vLLM's own."""

    def __init__(self, size: int) -> None:
        self.number = next_number()
        path = f"/dev/shm/kvtier-bench-{os.getpid()}"
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.unlink(path)
        os.ftruncate(self.fd, size)
        self.memory = mmap.mmap(self.fd, size)
        self.size = size
        self.view = memoryview(self.memory)


def key_of(index: int) -> bytes:
    return b"%032x" % (index * 0x9E3779B97F4A7C15 & (1 << 128) - 1)


def fresh(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size)
    for at in range(0, size, 4096):
        memory[at] = 1
    return memory


class Driver:
    def __init__(self, path: str) -> None:
        self.client = Client(path, name="bench")
        self.namespace = Namespace("bench", "00112233445566778899aabbccddeeff")
        self.regions: dict[bool, Region] = {}
        self.copies: tuple[mmap.mmap, mmap.mmap] | None = None
        self.redis: socket.socket | None = None

    def region(self, size: int, sealed: bool) -> Region:
        known = self.regions.get(sealed)
        if known is None or known.size < size:
            known = Region(size) if sealed else FileRegion(size)
            for at in range(0, size, 64):
                known.memory[at : at + 8] = os.urandom(8)
            self.regions[sealed] = known
        return known

    def spans(self, chunk: int, count: int) -> list[tuple[int, int]]:
        return [(index * chunk, chunk) for index in range(count)]

    def store(self, chunk: int, count: int, base: int, sealed: bool) -> float:
        region = self.region(chunk * count, sealed)
        keys = [key_of(base + index) for index in range(count)]
        started = time.perf_counter()
        outcomes = self.client.store(self.namespace, region, keys, self.spans(chunk, count)).result(60)
        elapsed = time.perf_counter() - started
        assert set(outcomes) <= {0, 1}, outcomes
        return chunk * count / elapsed

    def load(self, chunk: int, count: int, base: int, sealed: bool) -> float:
        region = self.region(chunk * count, sealed)
        keys = [key_of(base + index) for index in range(count)]
        started = time.perf_counter()
        outcomes = self.client.load(self.namespace, region, keys, self.spans(chunk, count)).result(60)
        elapsed = time.perf_counter() - started
        assert set(outcomes) == {0}, outcomes
        return chunk * count / elapsed

    def memcpy(self, chunk: int, count: int) -> float:
        """One thread, chunk by chunk, out of memory that is in no cache."""
        size = chunk * count
        if self.copies is None or len(self.copies[0]) < size:
            self.copies = (fresh(size), fresh(size))
        to, from_ = (ctypes.addressof(ctypes.c_char.from_buffer(memory)) for memory in self.copies)
        started = time.perf_counter()
        for at in range(0, size, chunk):
            ctypes.memmove(to + at, from_ + at, chunk)
        return size / (time.perf_counter() - started)

    def redis_fill(self, port: int, chunk: int, count: int) -> None:
        self.redis = socket.create_connection(("127.0.0.1", port))
        self.redis.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        value = os.urandom(chunk)
        for index in range(count):
            self.redis.sendall(b"*3\r\n$3\r\nSET\r\n$32\r\n%s\r\n$%d\r\n" % (key_of(index), chunk) + value + b"\r\n")
            assert self.redis.recv(5) == b"+OK\r\n"

    def redis_get(self, chunk: int, count: int) -> float:
        """As a client would that knows the size: straight into the memory where it is wanted."""
        assert self.redis is not None
        region = self.region(chunk * count, False)
        head = b"$%d\r\n" % chunk
        started = time.perf_counter()
        for index in range(count):
            self.redis.sendall(b"*2\r\n$3\r\nGET\r\n$32\r\n%s\r\n" % key_of(index))
            assert self.redis.recv(len(head), socket.MSG_WAITALL) == head
            view = region.view[index * chunk : (index + 1) * chunk]
            at = 0
            while at < chunk:
                at += self.redis.recv_into(view[at:])
            assert self.redis.recv(2, socket.MSG_WAITALL) == b"\r\n"
        return chunk * count / (time.perf_counter() - started)

    def fill_index(self, chunks: int) -> int:
        """Small chunks, as many at once as a request may name."""
        size, batch = 64, 4096
        region = self.region(size * batch, True)
        for base in range(0, chunks, batch):
            keys = [key_of(index) for index in range(base, min(base + batch, chunks))]
            self.client.store(self.namespace, region, keys, self.spans(size, len(keys)), chain=False).result(60)
        return chunks

    def lookup(self, count: int, chunks: int, rounds: int) -> float:
        """Median round trip in us, of keys that are there, elsewhere in the index each time."""
        times = []
        for turn in range(rounds):
            base = turn * 7919 * count % (chunks - count)
            keys = [key_of(base + index) for index in range(count)]
            started = time.perf_counter()
            found = self.client.lookup(self.namespace, keys, peek=False, seconds=1)
            times.append(time.perf_counter() - started)
            assert found.prefix == count, found.prefix
        return sorted(times)[len(times) // 2] * 1e6


def main() -> None:
    driver = Driver(sys.argv[1])
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(getattr(driver, order.pop("do"))(**order)), flush=True)


main()

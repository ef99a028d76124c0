"""A client of a kvtier agent on this machine: keys in, tiers out, bytes by shared memory.

Nothing here raises because the agent is away: a lookup answers "missing", a job answers that nothing was moved, at once; a thread of the
client's own connects again. What cannot be right whatever the agent does (a key that no key can be) raises ValueError.

Two sockets: one for lookups, which the calling thread reads itself, and one for jobs, whose replies a thread reads. Both are used from any
thread.
"""

from __future__ import annotations

import array
import itertools
import json
import logging
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvtier import wire
from kvtier.region import Region

log = logging.getLogger("kvtier")

#: How long the caller of a lookup may be kept, seconds.
LOOKUP_SECONDS = 0.005
CONNECT_SECONDS = 1.0
BACK_OFF_SECONDS = (0.05, 2.0)
KEY_SHAPE = re.compile(rb"[\x21-\x3f\x41-\x7e]{1,512}")


@dataclass(frozen=True)
class Namespace:
    """All that makes equal keys different KV. ``layout``: 16 to 64 hex digits (chunking.fingerprint)."""

    model: str
    layout: str
    rank: str = ""
    group: str = ""
    salt: str = ""

    def body(self) -> bytes:
        return b"".join(wire.text(part) for part in (self.model, self.layout, self.rank, self.group, self.salt))


@dataclass(frozen=True)
class Found:
    """``tiers``: wire.MISSING, HBM, RAM, SSD or NOT_ADMITTED for each key; as many as were looked at. ``sizes`` in bytes."""

    tiers: bytes
    sizes: tuple[int, ...]

    @property
    def prefix(self) -> int:
        """Keys from the first on that can be loaded."""
        for index, tier in enumerate(self.tiers):
            if tier in (wire.MISSING, wire.NOT_ADMITTED):
                return index
        return len(self.tiers)


NOTHING = Found(b"", ())


def find_socket(path: str | None = None, data_dir: str | None = None) -> str:
    """By argument, by KVTIER_SOCKET, or by the agent.json of a data directory; ValueError says what to name."""
    if path:
        return path
    named = os.environ.get("KVTIER_SOCKET")
    if named and not data_dir:
        return named
    folder = Path(data_dir or os.environ.get("KVTIER_DATA_DIR") or ".kvtier")
    try:
        doors = json.loads((folder / "agent.json").read_text())["doors"]
    except (OSError, ValueError, KeyError) as problem:
        fallback = folder / "agent.sock"
        if data_dir:
            return str(fallback)
        raise ValueError(f"no agent is found in {folder}: name its socket, or KVTIER_SOCKET") from problem
    if "socket" not in doors:
        raise ValueError(f"the agent of {folder} has no socket: start it without --socket off")
    return str(doors["socket"])


class _Link:
    """One connected socket; ends for good with the first thing that goes wrong."""

    def __init__(self, path: str, token: str, name: str) -> None:
        self._tags = itertools.count(1)
        self.namespaces: dict[Namespace, int] = {}
        self.regions: dict[int, int] = {}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.settimeout(CONNECT_SECONDS)
            self.socket.connect(path)
            reader = self.call(wire.HELLO, struct.pack("<I", wire.VERSION) + wire.text(name) + wire.text(token))
            self.version = reader.number(4)
            self.instance = reader.number(8)
            self.lease_seconds = reader.number(4) / 1000
            self.max_keys = reader.number(4)
            self.max_frame_bytes = reader.number(4)
            self.max_jobs = reader.number(4)
            self.max_chunk_bytes = reader.number(8)
            self.server = reader.text()
        except BaseException:
            self.socket.close()
            raise

    def tag(self) -> int:
        return next(self._tags)

    def receive(self, size: int) -> bytes:
        data = self.socket.recv(size)
        if len(data) == size:
            return data
        parts = [data]
        left = size - len(data)
        while left > 0:
            if not parts[-1]:
                raise ConnectionError("the agent has closed the connection")
            parts.append(self.socket.recv(left))
            left -= len(parts[-1])
        return b"".join(parts)

    def receive_frame(self) -> tuple[int, int, int, bytes]:
        size, op, status, tag = wire.HEADER.unpack(self.receive(wire.HEADER.size))
        if size > wire.MAX_FRAME_BYTES:
            raise wire.ProtocolError(f"a frame of {size} bytes")
        return op, status, tag, self.receive(size) if size else b""

    def call(self, op: int, body: bytes) -> wire.Reader:
        """One request and its reply, on a link that nothing else is read from."""
        tag = self.tag()
        self.socket.sendall(wire.frame(op, tag, body))
        got, status, replied, reply = self.receive_frame()
        if replied != tag or got != op:
            raise wire.ProtocolError(f"operation {got}, tag {replied} in reply to {op}, {tag}")
        if status != 0:
            raise Refused(status, wire.Reader(reply).text())
        return wire.Reader(reply)

    def close(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()


class Refused(Exception):
    """The agent does not do what it was asked; the message is its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Jobs:
    """The socket of jobs: a thread reads the replies and resolves who waits for them."""

    def __init__(self, link: _Link) -> None:
        self.link = link
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[wire.Reader | None]] = {}
        self.closed = False
        link.socket.settimeout(None)
        threading.Thread(target=self._read, name="kvtier-replies", daemon=True).start()

    def submit(self, op: int, body: bytes, descriptor: int = -1) -> Future[wire.Reader | None]:
        """Resolves with the reply, with None where the connection ends first, or raises Refused."""
        future: Future[wire.Reader | None] = Future()
        with self._lock:
            if self.closed:
                future.set_result(None)
                return future
            tag = self.link.tag()
            self._waiting[tag] = future
            try:
                self.link.socket.sendall(wire.frame(op, tag, body))
                if descriptor >= 0:
                    # The agent wants it once it has read the request (CONTINUE); it waits in the socket until then.
                    self._pass(descriptor)
            except OSError:
                self._waiting.pop(tag, None)
                future.set_result(None)
        return future

    def _pass(self, descriptor: int) -> None:
        rights = array.array("i", [descriptor])
        self._go.wait(CONNECT_SECONDS)
        self._go.clear()
        self.link.socket.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    _go = threading.Event()

    def _read(self) -> None:
        try:
            while True:
                op, status, tag, body = self.link.receive_frame()
                if op == wire.CONTINUE:
                    self._go.set()
                    continue
                future = self._waiting.pop(tag, None)
                if future is None:
                    continue
                if status == 0:
                    future.set_result(wire.Reader(body))
                else:
                    future.set_exception(Refused(status, wire.Reader(body).text()))
        except (OSError, wire.ProtocolError) as problem:
            log.debug("the connection for jobs ended: %s", problem)
        self.close()

    def close(self) -> None:
        with self._lock:
            self.closed = True
            waiting, self._waiting = self._waiting, {}
        self.link.close()
        for future in waiting.values():
            if not future.done():
                future.set_result(None)


class Client:
    """``socket``, ``data_dir``: see find_socket. ``token`` where the agent wants one."""

    def __init__(self, socket: str | None = None, *, data_dir: str | None = None, token: str = "", name: str = "python") -> None:
        self._path = find_socket(socket, data_dir)
        self._token = token
        self._name = name
        self._lookups: _Link | None = None
        self._jobs: _Jobs | None = None
        self._lookup_lock = threading.Lock()
        self._jobs_lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._connect()
        self._connector = threading.Thread(target=self._reconnect, name="kvtier-connect", daemon=True)
        self._connector.start()

    # --- connections

    @property
    def connected(self) -> bool:
        jobs = self._jobs
        return self._lookups is not None and jobs is not None and not jobs.closed

    def _connect(self) -> bool:
        try:
            if self._jobs is None or self._jobs.closed:
                self._jobs = _Jobs(_Link(self._path, self._token, self._name))
            if self._lookups is None:
                self._lookups = _Link(self._path, self._token, self._name)
            return True
        except Refused as problem:
            log.error("kvtier refuses the connection: %s", problem)
        except (OSError, wire.ProtocolError) as problem:
            log.debug("no kvtier agent at %s: %s", self._path, problem)
        return False

    def _reconnect(self) -> None:
        pause, longest = BACK_OFF_SECONDS
        while not self._closed:
            if self.connected or self._connect():
                pause = BACK_OFF_SECONDS[0]
                self._wake.wait(longest)
            else:
                time.sleep(pause)
                pause = min(longest, 2 * pause)
            self._wake.clear()

    def _drop_lookups(self, link: _Link) -> None:
        if self._lookups is link:
            self._lookups = None
        link.close()
        self._wake.set()

    # --- lookups

    def lookup(
        self, namespace: Namespace, keys: Sequence[bytes], *, prefix: bool = True, peek: bool = False, seconds: float = LOOKUP_SECONDS
    ) -> Found:
        """Which tier has each key; with ``prefix`` up to the first that is missing. Takes leases unless ``peek``. After ``seconds``, and where the
        agent is away, nothing is found."""
        link = self._lookups
        if link is None or not keys:
            return NOTHING
        until = time.monotonic() + seconds
        if not self._lookup_lock.acquire(timeout=seconds):
            return NOTHING
        try:
            link.socket.settimeout(max(0.0005, until - time.monotonic()))
            number = link.namespaces.get(namespace)
            if number is None:
                number = link.call(wire.NAMESPACE, namespace.body()).number(4)
                link.namespaces[namespace] = number
            reader = link.call(wire.LOOKUP, struct.pack("<IB", number, prefix | peek << 1) + wire.keys(keys))
            return Found(reader.blob(), reader.u32s())
        except Refused as problem:
            raise ValueError(str(problem)) from problem
        except (OSError, wire.ProtocolError) as problem:
            # A reply that comes late would be taken for the next one's.
            log.debug("a lookup failed: %s", problem)
            self._drop_lookups(link)
            return NOTHING
        finally:
            self._lookup_lock.release()

    # --- jobs

    def load(
        self, namespace: Namespace, region: Region, keys: Sequence[bytes], spans: Sequence[wire.Span], *, deadline_ms: int = 0
    ) -> Future[bytes]:
        """Each chunk into its span, whose length is the chunk's. Resolves with an outcome for each key (0: loaded) when nothing writes into the
        region any more; where the connection ends before, with all 5 (failed), and then a living agent may still write for a moment: do not use
        the region again."""
        return self._job(wire.LOAD, namespace, region, keys, spans, struct.pack("<I", deadline_ms), b"", failed=5)

    def store(
        self,
        namespace: Namespace,
        region: Region,
        keys: Sequence[bytes],
        spans: Sequence[wire.Span],
        *,
        chain: bool = True,
        parent: bytes = b"",
        ttl_ms: int = 0,
    ) -> Future[bytes]:
        """Each span becomes a chunk. Resolves with an outcome for each key (0: stored, 1: there already) when nothing reads the spans any more."""
        head = struct.pack("<BI", int(chain), ttl_ms) + wire.blob(parent)
        return self._job(wire.STORE, namespace, region, keys, spans, head, b"", failed=9)

    def _job(
        self,
        op: int,
        namespace: Namespace,
        region: Region,
        keys: Sequence[bytes],
        spans: Sequence[wire.Span],
        head: bytes,
        _tail: bytes,
        *,
        failed: int,
    ) -> Future[bytes]:
        done: Future[bytes] = Future()
        nothing = bytes([failed]) * len(keys)
        jobs = self._jobs
        if jobs is None or jobs.closed:
            done.set_result(nothing)
            return done
        try:
            with self._jobs_lock:
                number, attached = self._prepare(jobs, namespace, region)
                body = struct.pack("<II", number, attached) + head + wire.keys(keys) + wire.spans(spans)
                replied = jobs.submit(op, body)
        except (Refused, OSError, wire.ProtocolError, TimeoutError) as problem:
            log.debug("a job failed: %s", problem)
            done.set_result(nothing)
            return done

        def finish(reply: Future[wire.Reader | None]) -> None:
            problem = reply.exception()
            if problem is not None:
                log.warning("kvtier refused a job: %s", problem)
            reader = None if problem is not None else reply.result()
            if reader is None:
                self._wake.set()
            done.set_result(nothing if reader is None else reader.blob())

        replied.add_done_callback(finish)
        return done

    def _prepare(self, jobs: _Jobs, namespace: Namespace, region: Region) -> tuple[int, int]:
        """The numbers of both on this connection."""
        link = jobs.link
        number = link.namespaces.get(namespace)
        if number is None:
            number = self._ask(jobs, wire.NAMESPACE, namespace.body()).number(4)
            link.namespaces[namespace] = number
        attached = link.regions.get(id(region))
        if attached is None:
            attached = self._ask(jobs, wire.ATTACH, b"\1" + wire.text(""), region.fd).number(4)
            link.regions[id(region)] = attached
        return number, attached

    @staticmethod
    def _ask(jobs: _Jobs, op: int, body: bytes, descriptor: int = -1) -> wire.Reader:
        reader = jobs.submit(op, body, descriptor).result(CONNECT_SECONDS)
        if reader is None:
            raise ConnectionError("the agent has closed the connection")
        return reader

    def detach(self, region: Region) -> None:
        """Before a region is closed. Where the agent is away there is nothing to do."""
        jobs = self._jobs
        number = None if jobs is None else jobs.link.regions.pop(id(region), None)
        if jobs is not None and number is not None:
            jobs.submit(wire.DETACH, struct.pack("<I", number))

    # --- what operators ask

    def _operate(self, op: int, body: bytes, seconds: float = 10.0) -> wire.Reader:
        jobs = self._jobs
        reader = None if jobs is None else jobs.submit(op, body).result(seconds)
        if reader is None:
            raise ConnectionError(f"no kvtier agent at {self._path}")
        return reader

    def stats(self) -> dict[str, Any]:
        """As GET /v1/stats. Raises ConnectionError where the agent is away."""
        return dict(json.loads(self._operate(wire.STATS, b"").blob()))

    def invalidate(self, request: dict[str, Any]) -> dict[str, Any]:
        """As POST /v1/invalidate: ``{"selector": {...}}``. Raises Refused, ConnectionError."""
        return dict(json.loads(self._operate(wire.INVALIDATE, wire.blob(json.dumps(request).encode())).blob()))

    def ping(self) -> bool:
        try:
            return self._operate(wire.PING, wire.blob(b"kvtier"), 1.0).blob() == b"kvtier"
        except (ConnectionError, TimeoutError):
            return False

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        if self._lookups is not None:
            self._lookups.close()
        if self._jobs is not None:
            self._jobs.close()

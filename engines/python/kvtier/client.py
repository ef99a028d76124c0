"""A client of a kvtier agent on this machine: keys in, tiers out, bytes by shared memory.

Nothing here raises because the agent is away: a lookup answers "missing", a job answers that nothing was moved, at once; a thread of the
client's own connects again. What cannot be right whatever the agent does (a key that no key can be) raises ValueError.

Two sockets: one for lookups, which the calling thread reads itself, and one for jobs, which a thread writes and a thread reads, so that who
hands a job in never waits. All of it may be used from any thread.
"""

from __future__ import annotations

import array
import itertools
import json
import logging
import os
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kvtier import wire
from kvtier.region import FileRegion, Region

log = logging.getLogger("kvtier")

#: How long the caller of a lookup may be kept, seconds.
LOOKUP_SECONDS = 0.005
CONNECT_SECONDS = 1.0
BACK_OFF_SECONDS = (0.05, 2.0)
#: How long bytes of a job may still be written after a living agent has closed the connection, seconds: longer than the agent waits for a disk.
LINGER_SECONDS = 60.0
POLL_SECONDS = 0.02
#: Of one request; a longer job is several, which are in work at the same time.
JOB_KEYS = 256


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
T = TypeVar("T")


def settle(future: Future[T], value: T) -> None:
    """Sets the result unless there is one, or nobody waits any more."""
    try:
        future.set_result(value)
    except InvalidStateError:
        pass


def fail(future: Future[T], problem: Exception) -> None:
    """As settle, for what went wrong."""
    try:
        future.set_exception(problem)
    except InvalidStateError:
        pass


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


class Refused(Exception):
    """The agent does not do what it was asked; the message is its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NotSent(ConnectionError):
    """The agent has never seen the job."""


class Link:
    """One connected socket; ends for good with the first thing that goes wrong."""

    def __init__(self, path: str, token: str, name: str) -> None:
        self.process = -1
        self._tags = itertools.count(1)
        self.namespaces: dict[Namespace, int] = {}
        self.regions: dict[int, int] = {}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            until = time.monotonic() + CONNECT_SECONDS
            self.socket.settimeout(CONNECT_SECONDS)
            self.socket.connect(path)
            hello = struct.pack("<I", wire.VERSION) + wire.text(name) + wire.text(token)
            reader = self.call(wire.HELLO, hello, until)
            self.version = reader.number(4)
            self.instance = reader.number(8)
            self.lease_seconds = reader.number(4) / 1000
            self.max_keys = reader.number(4)
            self.max_frame_bytes = reader.number(4)
            self.max_jobs = reader.number(4)
            self.max_chunk_bytes = reader.number(8)
            self.server = reader.text()
            if self.version != wire.VERSION or self.max_keys < 1 or self.max_jobs < 1:
                raise wire.ProtocolError(f"{self.server} speaks version {self.version}, {self.max_keys} keys, {self.max_jobs} jobs")
            self.process = _process_of(self.socket)
        except BaseException:
            self.socket.close()
            raise

    def tag(self) -> int:
        return next(self._tags)

    def receive(self, size: int, until: float | None) -> bytes:
        parts: list[bytes] = []
        left = size
        while left > 0:
            if until is not None:
                self.socket.settimeout(_left(until))
            data = self.socket.recv(min(left, 1 << 20))
            if not data:
                raise ConnectionError("the agent has closed the connection")
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    def receive_frame(self, until: float | None = None) -> tuple[int, int, int, bytes]:
        size, op, status, tag = wire.HEADER.unpack(self.receive(wire.HEADER.size, until))
        if size > wire.MAX_FRAME_BYTES:
            raise wire.ProtocolError(f"a frame of {size} bytes")
        return op, status, tag, self.receive(size, until)

    def call(self, op: int, body: bytes, until: float) -> wire.Reader:
        """One request and its reply, on a link that nothing else is read from."""
        tag = self.tag()
        self.socket.settimeout(_left(until))
        self.socket.sendall(wire.frame(op, tag, body))
        got, status, replied, reply = self.receive_frame(until)
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

    def is_dead(self) -> bool:
        """True where the process behind it is known to have ended: then nothing of it writes anywhere."""
        return self.process >= 0 and bool(select.select([self.process], [], [], 0)[0])

    def __del__(self) -> None:
        if self.process >= 0:
            os.close(self.process)
            self.process = -1


def _process_of(connected: socket.socket) -> int:
    """A descriptor of the peer's process, or -1 where it cannot be seen (another PID namespace)."""
    pid = struct.unpack("iII", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    try:
        return os.pidfd_open(pid) if pid > 0 else -1
    except OSError:
        return -1


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("the agent has not answered in time")
    return left


@dataclass
class _Job:
    """``make`` gives the body, on the thread that sends; ``future`` has the reply, or None where the connection ends before it."""

    op: int
    make: Callable[[_Jobs], bytes]
    future: Future[wire.Reader | None]
    descriptor: int = -1


class _Jobs:
    """The socket of jobs: a thread sends them, a thread reads the replies and resolves who waits for them."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._unsent: set[Future[wire.Reader | None]] = set()
        self._waiting: dict[int, Future[wire.Reader | None]] = {}
        self._room = threading.Semaphore(link.max_jobs)
        self._go = threading.Event()
        self.closed = False
        link.socket.settimeout(None)
        threading.Thread(target=self._send_all, name="kvtier-requests", daemon=True).start()
        threading.Thread(target=self._read, name="kvtier-replies", daemon=True).start()

    @property
    def is_busy(self) -> bool:
        """True while jobs wait to be sent."""
        return not self._queue.empty()

    def submit(self, op: int, make: Callable[[_Jobs], bytes]) -> Future[wire.Reader | None]:
        """Never waits. Resolves with the reply, with None where the connection ends first, or raises Refused or NotSent."""
        job = _Job(op, make, Future())
        with self._lock:
            if not self.closed:
                self._unsent.add(job.future)
                self._queue.put(job)
                return job.future
        fail(job.future, NotSent("there is no connection"))
        return job.future

    def ask(self, op: int, body: bytes, descriptor: int = -1) -> wire.Reader:
        """For what a job needs first; on the sending thread only. Raises Refused, ConnectionError, TimeoutError."""
        job = _Job(op, lambda _: body, Future(), descriptor)
        self._send(job)
        reader = job.future.result(CONNECT_SECONDS)
        if reader is None:
            raise ConnectionError("the agent has closed the connection")
        return reader

    def _send_all(self) -> None:
        while (job := self._queue.get()) is not None:
            self._room.acquire()
            with self._lock:
                self._unsent.discard(job.future)
            # From here on its future is in _waiting, or resolved below.
            try:
                self._send(job)
            except Refused as problem:
                self._room.release()
                job.future.set_exception(problem)
                if problem.status == wire.BUSY:
                    # A connection has so many namespaces and regions; the next one has all of them again.
                    self.close()
            except (OSError, wire.ProtocolError, FutureTimeout) as problem:
                log.debug("a job was not sent: %s", problem)
                self._room.release()
                self.close()
                fail(job.future, NotSent(str(problem)))

    def _send(self, job: _Job) -> None:
        body = job.make(self)
        tag = self.link.tag()
        with self._lock:
            if self.closed:
                fail(job.future, NotSent("the connection has ended"))
                return
            self._waiting[tag] = job.future
            self._go.clear()
        self.link.socket.sendall(wire.frame(job.op, tag, body))
        if job.descriptor < 0:
            return
        # The agent wants it once it has read the request (CONTINUE).
        if not self._go.wait(CONNECT_SECONDS):
            raise TimeoutError("the agent has not asked for the descriptor")
        rights = array.array("i", [job.descriptor])
        self.link.socket.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def _read(self) -> None:
        try:
            while True:
                op, status, tag, body = self.link.receive_frame()
                if op == wire.CONTINUE:
                    self._go.set()
                    continue
                with self._lock:
                    future = self._waiting.pop(tag, None)
                if future is None:
                    raise wire.ProtocolError(f"operation {op} in reply to tag {tag}, for which nobody waits")
                if op in COUNTED:
                    self._room.release()
                try:
                    problem = Refused(status, wire.Reader(body).text()) if status != 0 else None
                except wire.ProtocolError:
                    settle(future, None)
                    raise
                if problem is None:
                    settle(future, wire.Reader(body))
                else:
                    future.set_exception(problem)
        except (OSError, wire.ProtocolError) as problem:
            log.debug("the connection for jobs ended: %s", problem)
        self.close()

    def close(self) -> None:
        with self._lock:
            first, self.closed = not self.closed, True
            waiting, unsent = [*self._waiting.values()], [*self._unsent]
            self._waiting, self._unsent = {}, set()
        if not first:
            return
        self.link.close()
        self._queue.put(None)
        self._go.set()
        # So that the sending thread meets the end of its queue.
        self._room.release(len(unsent) + 1)
        for future in waiting:
            settle(future, None)
        for future in unsent:
            fail(future, NotSent("the connection has ended"))


#: Operations that take a place among the jobs of a connection; what a job asks first does not.
COUNTED = frozenset((wire.LOAD, wire.STORE, wire.TOUCH, wire.DETACH, wire.STATS, wire.INVALIDATE, wire.PING))


@dataclass
class _Limbo:
    """Futures of jobs whose connection has ended while a living agent may still write."""

    link: Link
    until: float
    resolve: list[Callable[[], None]]


class Client:
    """``socket``, ``data_dir``: see find_socket. ``token`` where the agent wants one."""

    def __init__(self, socket: str | None = None, *, data_dir: str | None = None, token: str = "", name: str = "python") -> None:
        self._path = find_socket(socket, data_dir)
        self._token = token
        self._name = name
        self._lookups: Link | None = None
        self._jobs: _Jobs | None = None
        self._lookup_lock = threading.Lock()
        self._limbo_lock = threading.Lock()
        self._limbo: dict[Link, _Limbo] = {}
        self._wake = threading.Event()
        self._closed = False
        self._refusal = ""
        self._connect()
        self._connector = threading.Thread(target=self._reconnect, name="kvtier-connect", daemon=True)
        self._connector.start()

    # --- connections

    @property
    def connected(self) -> bool:
        jobs = self._jobs
        return self._lookups is not None and jobs is not None and not jobs.closed

    @property
    def instance(self) -> int:
        """Another number for another process of the agent; 0 while it is away."""
        jobs = self._jobs
        return 0 if jobs is None or jobs.closed else jobs.link.instance

    def _connect(self) -> bool:
        try:
            if self._jobs is None or self._jobs.closed:
                self._jobs = _Jobs(Link(self._path, self._token, self._name))
            if self._lookups is None:
                self._lookups = Link(self._path, self._token, self._name)
            if self._closed:
                self._end()
            self._refusal = ""
            return True
        except Refused as problem:
            if str(problem) != self._refusal:
                self._refusal = str(problem)
                log.error("kvtier refuses the connection: %s", problem)
        except (OSError, wire.ProtocolError) as problem:
            log.debug("no kvtier agent at %s: %s", self._path, problem)
        return False

    def connect(self) -> Link:
        """A connection of the caller's own, for what keeps one. Raises OSError, Refused, ProtocolError."""
        return Link(self._path, self._token, self._name)

    def _reconnect(self) -> None:
        pause, longest = BACK_OFF_SECONDS
        due = 0.0
        while not self._closed:
            self._end_limbo()
            now = time.monotonic()
            if not self.connected and now >= due:
                pause = BACK_OFF_SECONDS[0] if self._connect() else min(longest, 2 * pause)
                due = time.monotonic() + pause
            wait = POLL_SECONDS if self._limbo else longest if self.connected else max(0.0, due - time.monotonic())
            self._wake.wait(wait)
            self._wake.clear()

    def _end_limbo(self) -> None:
        """Resolves jobs behind which nothing writes any more: their agent's process has ended, or another has taken its place."""
        now = time.monotonic()
        with self._limbo_lock:
            ended = [
                limbo
                for limbo in self._limbo.values()
                if self._closed or limbo.link.is_dead() or self.instance not in (0, limbo.link.instance) or now > limbo.until
            ]
            for limbo in ended:
                del self._limbo[limbo.link]
        for limbo in ended:
            for resolve in limbo.resolve:
                resolve()

    def _linger(self, link: Link, resolve: Callable[[], None]) -> None:
        with self._limbo_lock:
            if self._closed:
                resolve()
                return
            limbo = self._limbo.setdefault(link, _Limbo(link, time.monotonic() + LINGER_SECONDS, []))
            limbo.resolve.append(resolve)
        self._wake.set()

    def _drop_lookups(self, link: Link) -> None:
        if self._lookups is link:
            self._lookups = None
        link.close()
        self._wake.set()

    # --- lookups

    def lookup(
        self, namespace: Namespace, keys: Sequence[bytes], *, prefix: bool = True, peek: bool = False, seconds: float = LOOKUP_SECONDS
    ) -> Found:
        """Which tier has each key; with ``prefix`` up to the first that is missing. Takes leases unless ``peek``. After ``seconds``, and where the
        agent is away or refuses, nothing is found; what no agent can answer (a key that is none) is a ValueError."""
        if self._lookups is None or not keys:
            return NOTHING
        until = time.monotonic() + seconds
        if not self._lookup_lock.acquire(timeout=seconds):
            return NOTHING
        try:
            link = self._lookups
            return NOTHING if link is None else self._lookup_on(link, namespace, keys, prefix | peek << 1, until)
        finally:
            self._lookup_lock.release()

    def _lookup_on(self, link: Link, namespace: Namespace, keys: Sequence[bytes], flags: int, until: float) -> Found:
        try:
            number = link.namespaces.get(namespace)
            if number is None:
                number = link.call(wire.NAMESPACE, namespace.body(), until).number(4)
                link.namespaces[namespace] = number
            tiers, sizes = b"", ()
            for start in range(0, len(keys), link.max_keys):
                part = keys[start : start + link.max_keys]
                reader = link.call(wire.LOOKUP, struct.pack("<IB", number, flags) + wire.keys(part), until)
                found = Found(reader.blob(), reader.u32s())
                reader.end()
                if len(found.tiers) != len(found.sizes) or len(found.tiers) > len(part):
                    raise wire.ProtocolError(f"{len(found.tiers)} tiers, {len(found.sizes)} sizes of {len(part)} keys")
                tiers, sizes = tiers + found.tiers, sizes + found.sizes
                if flags & 1 and len(found.tiers) < len(part):
                    break
            return Found(tiers, sizes)
        except Refused as problem:
            if problem.status == wire.INVALID:
                raise ValueError(str(problem)) from problem
            log.debug("a lookup was refused: %s", problem)
            if problem.status == wire.BUSY:
                self._drop_lookups(link)
            return NOTHING
        except (OSError, wire.ProtocolError) as problem:
            # A reply that comes late would be taken for the next one's.
            log.debug("a lookup failed: %s", problem)
            self._drop_lookups(link)
            return NOTHING

    # --- jobs

    def load(
        self,
        namespace: Namespace,
        region: Region | FileRegion,
        keys: Sequence[bytes],
        spans: Sequence[wire.Span],
        *,
        deadline_ms: int = 0,
        until_quiet: bool = False,
    ) -> Future[bytes]:
        """Each chunk into its span, whose length is the chunk's. Resolves with an outcome for each key (0: loaded) when nothing writes into the
        region any more. Where the connection ends before, with all 5 (failed): at once, and then a living agent may still write for a moment, so do
        not use the region again; or, ``until_quiet``, when the agent's process has ended, another has taken its place, or a minute is over."""
        head = struct.pack("<I", deadline_ms)
        return self._job(wire.LOAD, namespace, region, keys, spans, lambda _: head, failed=5, until_quiet=until_quiet)

    def store(
        self,
        namespace: Namespace,
        region: Region | FileRegion,
        keys: Sequence[bytes],
        spans: Sequence[wire.Span],
        *,
        chain: bool = True,
        parent: bytes = b"",
        ttl_ms: int = 0,
    ) -> Future[bytes]:
        """Each span becomes a chunk. Resolves with an outcome for each key (0: stored, 1: there already) when nothing reads the spans any more, and
        with all 9 (failed) where the connection ends before."""

        def head(start: int) -> bytes:
            before = parent if start == 0 or not chain else keys[start - 1]
            return struct.pack("<BI", int(chain), ttl_ms) + wire.blob(before)

        return self._job(wire.STORE, namespace, region, keys, spans, head, failed=9, until_quiet=False)

    def _job(
        self,
        op: int,
        namespace: Namespace,
        region: Region | FileRegion,
        keys: Sequence[bytes],
        spans: Sequence[wire.Span],
        head: Callable[[int], bytes],
        *,
        failed: int,
        until_quiet: bool,
    ) -> Future[bytes]:
        if len(keys) != len(spans):
            raise ValueError(f"{len(keys)} keys and {len(spans)} spans")
        done: Future[bytes] = Future()
        jobs = self._jobs
        if jobs is None or jobs.closed or not keys:
            done.set_result(bytes([failed]) * len(keys))
            return done
        step = min(JOB_KEYS, jobs.link.max_keys)
        parts = [(start, keys[start : start + step], spans[start : start + step]) for start in range(0, len(keys), step)]
        outcomes: list[bytes] = [b""] * len(parts)
        left = itertools.count(len(parts) - 1, -1)

        def ended(index: int, outcome: bytes) -> None:
            outcomes[index] = outcome
            # One thread at a time gets each number.
            if next(left) == 0:
                settle(done, b"".join(outcomes))

        for index, (start, part, places) in enumerate(parts):
            body = head(start) + wire.keys(part) + wire.spans(places)

            def make(to: _Jobs, body: bytes = body) -> bytes:
                return struct.pack("<II", self._namespace_on(to, namespace), self._region_on(to, region)) + body

            def finish(reply: Future[wire.Reader | None], index: int = index, count: int = len(part)) -> None:
                nothing = bytes([failed]) * count
                outcome = self._outcome(reply, nothing)
                if outcome is None:
                    jobs.close()
                if outcome is None and until_quiet:
                    self._linger(jobs.link, lambda: ended(index, nothing))
                else:
                    ended(index, nothing if outcome is None else outcome)

            jobs.submit(op, make).add_done_callback(finish)
        return done

    def _outcome(self, reply: Future[wire.Reader | None], nothing: bytes) -> bytes | None:
        """What the agent says of each key, ``nothing`` where it refuses, None where it has said nothing that can be understood."""
        problem = reply.exception()
        if problem is not None:
            log.log(logging.DEBUG if isinstance(problem, NotSent) else logging.WARNING, "kvtier did no job: %s", problem)
            return nothing
        reader = reply.result()
        self._wake.set()
        if reader is None:
            return None
        try:
            outcome = reader.blob()
            reader.end()
        except wire.ProtocolError as broken:
            log.warning("kvtier answered a job with what cannot be: %s", broken)
            return None
        return outcome if len(outcome) == len(nothing) else None

    @staticmethod
    def _region_on(jobs: _Jobs, region: Region | FileRegion) -> int:
        """Its number on this connection; on its sending thread, as _namespace_on."""
        link = jobs.link
        attached = link.regions.get(region.number)
        if attached is None:
            attached = jobs.ask(wire.ATTACH, b"\1" + wire.text(""), region.fd).number(4)
            link.regions[region.number] = attached
        return attached

    @staticmethod
    def _namespace_on(jobs: _Jobs, namespace: Namespace) -> int:
        number = jobs.link.namespaces.get(namespace)
        if number is None:
            number = jobs.ask(wire.NAMESPACE, namespace.body()).number(4)
            jobs.link.namespaces[namespace] = number
        return number

    def touch(self, namespace: Namespace, keys: Sequence[bytes]) -> None:
        """Keys, in prefix order, were used now. Nobody waits for it, and where the agent is away or slow it is left out."""
        jobs = self._jobs
        if jobs is None or jobs.is_busy:
            return
        for start in range(0, len(keys), jobs.link.max_keys):
            body = wire.keys(keys[start : start + jobs.link.max_keys])
            jobs.submit(wire.TOUCH, lambda to, body=body: struct.pack("<I", self._namespace_on(to, namespace)) + body)

    def detach(self, region: Region | FileRegion) -> None:
        """Before a region is closed. Where the agent is away there is nothing to do."""
        jobs = self._jobs
        number = None if jobs is None else jobs.link.regions.pop(region.number, None)
        if jobs is not None and number is not None:
            jobs.submit(wire.DETACH, lambda _: struct.pack("<I", number))

    # --- what operators ask

    def _operate(self, op: int, body: bytes, seconds: float = 10.0) -> wire.Reader:
        jobs = self._jobs
        reader = None if jobs is None else jobs.submit(op, lambda _: body).result(seconds)
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
        except (ConnectionError, FutureTimeout):
            return False

    def close(self) -> None:
        """Ends both connections; what is under way resolves as failed. Nothing is reconnected."""
        self._closed = True
        self._wake.set()
        self._end()
        if threading.current_thread() is not self._connector:
            self._connector.join(CONNECT_SECONDS)
        self._end_limbo()

    def _end(self) -> None:
        lookups, jobs = self._lookups, self._jobs
        if lookups is not None:
            lookups.close()
        if jobs is not None:
            jobs.close()

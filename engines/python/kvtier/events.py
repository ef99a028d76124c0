"""What the agent removes, as it says so: a connection of its own, read by a thread of its own, connected again as often as it takes.

Events of the time in which the agent was away are lost, as are those that it could not send; ``lost`` counts the latter.
"""

from __future__ import annotations

import logging
import struct
import threading
import time

from kvtier import wire
from kvtier.client import BACK_OFF_SECONDS, Client, Link, Namespace, Refused

log = logging.getLogger("kvtier")

REMOVED = 2
#: Keys that wait to be taken; beyond them the oldest are dropped.
MAX_WAITING = 1 << 20


class EventStream:
    """Keys that were removed from one namespace, from the first connection on."""

    def __init__(self, client: Client, namespace: Namespace) -> None:
        self._client = client
        self._namespace = namespace
        self._lock = threading.Lock()
        self._removed: list[bytes] = []
        self._link: Link | None = None
        self._closed = False
        self.lost = 0
        threading.Thread(target=self._run, name="kvtier-events", daemon=True).start()

    @property
    def connected(self) -> bool:
        return self._link is not None

    def take_removed(self) -> list[bytes]:
        with self._lock:
            taken, self._removed = self._removed, []
        return taken

    def close(self) -> None:
        self._closed = True
        link = self._link
        if link is not None:
            link.close()

    def _run(self) -> None:
        pause, longest = BACK_OFF_SECONDS
        while not self._closed:
            try:
                link = self._client.connect()
                try:
                    # Events name namespaces that this connection has opened, and all others.
                    link.call(wire.EVENTS, struct.pack("<B", REMOVED), time.monotonic() + 1.0)
                    self._link = link
                    pause = BACK_OFF_SECONDS[0]
                    link.socket.settimeout(None)
                    while not self._closed:
                        self._take(*link.receive_frame())
                finally:
                    self._link = None
                    link.close()
            except (OSError, Refused, wire.ProtocolError) as problem:
                log.debug("no events: %s", problem)
            time.sleep(pause)
            pause = min(longest, 2 * pause)

    def _take(self, op: int, status: int, tag: int, body: bytes) -> None:
        if op != wire.EVENT or status != 0:
            raise wire.ProtocolError(f"operation {op} where only events come")
        reader = wire.Reader(body)
        kind, lost = reader.number(1), reader.number(4)
        fields = tuple(reader.text() for _ in range(4))
        keys = reader.keys()
        reader.end()
        self.lost += lost
        named = self._namespace
        if kind != REMOVED or fields != (named.model, named.layout, named.rank, named.group):
            return
        with self._lock:
            self._removed = [*self._removed, *keys][-MAX_WAITING:]

"""Chunks on their way between an engine and the agent: a region of shared memory in slots of one chunk.

One worker uses it from one thread. Loads are awaited and have all slots to themselves; stores that are under way hold theirs, and one that finds none
free after a while is given up: what is not stored is computed again some day.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from concurrent.futures import TimeoutError as FutureTimeout

import torch

from kvtier import wire
from kvtier.client import Client, Namespace
from kvtier.region import Region

log = logging.getLogger("kvtier")

#: How long a store may wait for the agent to have taken earlier ones, seconds.
STORE_PATIENCE_SECONDS = 0.25
LOAD_RETRY_SECONDS = 1.0


class Staging:
    """``staging_bytes`` 0: only looks up."""

    def __init__(
        self,
        *,
        model: str,
        layout: str,
        chunk_bytes: int,
        staging_bytes: int,
        socket: str | None = None,
        data_dir: str | None = None,
        token: str = "",
        name: str = "engine",
        lookup_ms: float = 5.0,
    ) -> None:
        self._model = model
        self._layout = layout
        self._chunk_bytes = chunk_bytes
        self._lookup_seconds = lookup_ms / 1000
        self.slots = max(2, staging_bytes // chunk_bytes) if staging_bytes > 0 else 0
        self._client = Client(socket, data_dir=data_dir, token=token, name=name)
        self._region: Region | None = None
        self._memory: torch.Tensor | None = None
        self._free: list[int] = []
        self._storing: dict[Future[bytes], list[int]] = {}
        self.dropped = 0
        #: False after a store has waited in vain, until one has ended: a hung agent costs one wait, and not one each step.
        self._patient = True
        self._renew()

    def _renew(self) -> None:
        """Other memory in place of what an agent may still write into."""
        if self.slots == 0:
            return
        if self._region is not None:
            self._client.detach(self._region)
            self._memory = None
            self._region.close()
        self._region = Region(self.slots * self._chunk_bytes)
        self._memory = torch.frombuffer(self._region.memory, dtype=torch.uint8).view(self.slots, self._chunk_bytes)
        self._free = list(range(self.slots))
        self._storing = {}

    def _namespace(self, rank: int, salt: str) -> Namespace:
        return Namespace(self._model, self._layout, rank=str(rank), salt=salt)

    def lookup(self, rank: int, salt: str, keys: Sequence[str]) -> int:
        """How many keys from the first on can be loaded; takes leases on them."""
        found = self._client.lookup(self._namespace(rank, salt), [key.encode() for key in keys], seconds=self._lookup_seconds)
        return found.prefix

    def _collect(self, seconds: float = 0.0) -> None:
        """Takes slots of stores that have ended."""
        if not self._storing:
            return
        done, _ = wait(self._storing, timeout=seconds, return_when="FIRST_COMPLETED")
        for future in done:
            self._patient = True
            self._free.extend(self._storing.pop(future))

    @contextmanager
    def load(self, rank: int, salt: str, keys: Sequence[str], timeout_ms: int) -> Iterator[list[torch.Tensor | None]]:
        """The bytes of each chunk, None where they could not be had. Valid inside of the ``with``."""
        until = time.monotonic() + timeout_ms / 1000
        while len(self._free) < len(keys) and time.monotonic() < until and self._storing:
            self._collect(0.05)
        self._collect()
        if self._region is None or self._memory is None or len(self._free) < len(keys):
            yield [None] * len(keys)
            return
        slots = [self._free.pop() for _ in keys]
        spans = [(slot * self._chunk_bytes, self._chunk_bytes) for slot in slots]
        job = self._client.load(self._namespace(rank, salt), self._region, [key.encode() for key in keys], spans, deadline_ms=timeout_ms)
        try:
            outcomes = job.result(max(0.001, until - time.monotonic()) + LOAD_RETRY_SECONDS)
        except FutureTimeout:
            log.warning("kvtier has not answered a load for %d ms: computing instead", timeout_ms)
            self._renew()
            yield [None] * len(keys)
            return
        try:
            yield [self._memory[slot] if outcome == wire.LOADED else None for slot, outcome in zip(slots, outcomes, strict=True)]
        finally:
            if any(outcome not in (wire.LOADED, 1, 2, 4) for outcome in outcomes):
                # The connection may have ended in the middle, and a living agent writes to the end of what it has begun.
                self._renew()
            else:
                self._free.extend(slots)

    def store(self, rank: int, salt: str, keys: Sequence[str], parent: str, fill: Callable[[int, torch.Tensor], None]) -> None:
        """``fill(index, memory)`` writes a chunk's bytes; the agent takes them afterwards. The blocks behind it may change when this returns."""
        start = 0
        while start < len(keys):
            count = self._room(len(keys) - start)
            if count == 0 or self._region is None or self._memory is None or not self._client.connected:
                self.dropped += len(keys) - start
                return
            slots = [self._free.pop() for _ in range(count)]
            for offset, slot in enumerate(slots):
                fill(start + offset, self._memory[slot])
            part = keys[start : start + count]
            before = parent if start == 0 else keys[start - 1]
            spans = [(slot * self._chunk_bytes, self._chunk_bytes) for slot in slots]
            job = self._client.store(
                self._namespace(rank, salt), self._region, [key.encode() for key in part], spans, parent=before.encode()
            )
            self._storing[job] = slots
            start += count

    def _room(self, wanted: int) -> int:
        self._collect()
        until = time.monotonic() + STORE_PATIENCE_SECONDS
        while self._patient and not self._free and self._storing and time.monotonic() < until:
            self._collect(0.05)
        if not self._free:
            self._patient = False
        return min(wanted, len(self._free))

    def settle(self, seconds: float) -> None:
        """Waits for the stores that are under way."""
        until = time.monotonic() + seconds
        while self._storing and time.monotonic() < until:
            self._collect(0.05)

    def close(self) -> None:
        self.settle(2.0)
        self._client.close()
        self._memory = None
        if self._region is not None:
            self._region.close()
            self._region = None

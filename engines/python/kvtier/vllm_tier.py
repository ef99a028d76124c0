"""vLLM's SecondaryTierManager on a kvtier agent: what the engine's CPU tier evicts goes to the agent, and comes back from it.

The agent is given the descriptor of the engine's own CPU-tier file and reads and writes its rows; this class, on the scheduler's thread, sends keys
and row numbers and never waits. Lookups run on a thread of their own with a deadline. Whatever goes wrong is a miss.

Invariants
- A row is in vLLM's hands again (its job finished) only when nothing of the agent writes into it any more: not when a deadline has passed, and,
  where the connection ends under a load, not before the agent's process has ended or another has taken its place.
- A key that failed to load is a miss for the requests that know it, or the scheduler would try it for ever.

Config of the tier, beside ``{"type": "KvtierTier", "module_path": "kvtier.vllm_tier"}``, all optional:
  socket, data_dir, token  where the agent is; else KVTIER_SOCKET
  namespace         what tells engines apart that must not share
  weights_version   what tells weights apart that change under one model name
  lookup_ms         how long a lookup may take before its keys are missing; 20 by default
  load_deadline_ms  loads that have not begun after this are not begun; 5000 by default
  enable_kv_events  true: stored and removed chunks are published with the engine's events
  locality          "LOCAL" or "REMOTE", for those events
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar

import vllm
from vllm.v1.kv_offload.base import (
    Locality,
    LookupResult,
    Medium,
    OffloadingEvent,
    OffloadKey,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
)

from kvtier import vllm_compat as compat
from kvtier import wire
from kvtier.chunking import fingerprint, model_name
from kvtier.client import Client, Namespace
from kvtier.events import EventStream
from kvtier.region import FileRegion

log = logging.getLogger("kvtier")

DEFAULT_LOOKUP_MS = 20
DEFAULT_LOAD_DEADLINE_MS = 5000
#: Requests between two warnings about a primary tier that is too small.
WARN_SECONDS = 60.0


def spelled(key: bytes) -> bytes:
    """A hash and a group as a key of the agent's."""
    return key.hex().encode()


def despelled(key: bytes) -> OffloadKey:
    return OffloadKey(bytes.fromhex(key.decode()))


def layout_facts(spec: Any, row_bytes: int) -> dict[str, Any]:
    """All that makes the bytes of a row readable by one engine and not by another: vLLM's hashes cover tokens, LoRA, media and salt alone."""
    config = spec.config
    parallel = config.parallel
    return {
        "engine": "vllm",
        "door": "tier",
        "release": vllm.__version__,
        "runner": os.environ.get("VLLM_USE_V2_MODEL_RUNNER", ""),
        "seed": os.environ.get("PYTHONHASHSEED", ""),
        "dtype": str(config.model.dtype),
        "groups": [[group.group_id, group.tokens_per_block, list(group.layer_names)] for group in config.groups],
        "hash": config.cache.tokens_per_hash,
        "blocks": config.cache.blocks_per_chunk,
        "worker_bytes": config.worker_kv_bytes_per_block,
        "row": row_bytes,
        "parallel": [parallel.world_size, parallel.tp_size, parallel.pp_size, parallel.pcp_size, parallel.dcp_size],
        "replicated": config.replicated_layout,
        "canonical": config.canonical_layout,
        "layout": config.kv_cache_layout,
    }


class KvtierLookups(compat.AsyncLookupManager):
    """Asks the agent on the thread of the base class."""

    def __init__(self, tier_type: str, client: Client, namespace: Namespace, seconds: float) -> None:
        # The thread of the base class starts in its constructor.
        self._client = client
        self._namespace = namespace
        self._seconds = seconds
        super().__init__(tier_type=tier_type)

    def batch_lookup(self, keys: list[OffloadKey], req_context: ReqContext) -> Iterable[bool]:
        found = self._client.lookup(self._namespace, [spelled(key) for key in keys], prefix=False, seconds=self._seconds)
        there = [tier not in (wire.MISSING, wire.NOT_ADMITTED) for tier in found.tiers]
        return there + [False] * (len(keys) - len(there))


@dataclass
class _Running:
    keys: list[OffloadKey]
    is_load: bool
    started: float


class KvtierTier(compat.SecondaryTierManager):
    """See the module. Methods are called on the scheduler's thread alone."""

    medium: ClassVar[Medium] = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        socket: str | None = None,
        data_dir: str | None = None,
        token: str = "",
        namespace: str = "",
        weights_version: str | None = None,
        lookup_ms: float = DEFAULT_LOOKUP_MS,
        load_deadline_ms: int = DEFAULT_LOAD_DEADLINE_MS,
        enable_kv_events: bool = False,
        locality: str | None = None,
        backpressure_detector: Any = None,
    ) -> None:
        super().__init__(offloading_spec, primary_kv_view, tier_type, **compat.base_arguments(backpressure_detector))
        self.locality = Locality(locality) if locality is not None else None
        self._row_bytes = int(primary_kv_view.strides[0])
        self._rows = int(primary_kv_view.shape[0])
        self._deadline_ms = load_deadline_ms
        self._region = _open_rows(compat.region_source(offloading_spec), self._rows * self._row_bytes)
        facts = layout_facts(offloading_spec, self._row_bytes)
        log.info("kvtier layout: %s", facts)
        name = model_name(offloading_spec.config.model.name, None, weights_version)
        self._namespace = Namespace(name, fingerprint({**facts, "namespace": namespace}))
        self._client = Client(socket, data_dir=data_dir, token=token, name=f"vllm-tier-{os.getpid()}")
        self._lookups = KvtierLookups(tier_type, self._client, self._namespace, lookup_ms / 1000)
        self._running: dict[int, _Running] = {}
        self._ended: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._idle = threading.Condition()
        self._unreported = 0
        self._asked: dict[str, int] = {}
        self._warned = float("-inf")
        self._events: list[OffloadingEvent] | None = None
        self._stream: EventStream | None = None
        if enable_kv_events and offloading_spec.kv_events_config.enable_kv_cache_events:
            self._events = []
            self._stream = EventStream(self._client, self._namespace)
        elif enable_kv_events:
            log.warning("kvtier: enable_kv_events does nothing while the engine publishes no events (--kv-events-config)")

    # --- requests

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        return RequestOffloadingContext()

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        found = self._lookups.lookup(key, req_context)
        if found is None:
            return LookupResult.RETRY
        if found:
            self._count(req_context.req_id)
        return LookupResult.HIT if found else LookupResult.MISS

    def _count(self, req_id: str) -> None:
        """A prefix that the primary tier cannot hold is a miss from where it ends, whatever the agent has."""
        count = self._asked.get(req_id, 0) + 1
        self._asked[req_id] = count
        now = time.monotonic()
        if count <= self._rows or now - self._warned < WARN_SECONDS:
            return
        self._warned = now
        log.warning(
            "kvtier: a request asks for %d chunks and the CPU tier of vLLM has room for %d: what does not fit there is computed again. "
            "Raise cpu_bytes_to_use",
            count,
            self._rows,
        )

    def on_request_finished(self, req_context: ReqContext) -> None:
        self._asked.pop(req_context.req_id, None)
        self._lookups.cleanup(req_context.req_id)

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        self._lookups.flush()

    # --- jobs

    def submit_store(self, job_metadata: Any) -> None:
        self._submit(job_metadata, is_load=False)

    def submit_load(self, job_metadata: Any) -> None:
        self._submit(job_metadata, is_load=True)

    def _submit(self, job: Any, *, is_load: bool) -> None:
        job_id, keys = job.job_id, list(job.keys)
        names = [spelled(key) for key in keys]
        spans = [(row * self._row_bytes, self._row_bytes) for row in compat.rows_of(job)]
        self._running[job_id] = _Running(keys, is_load, time.monotonic())
        if not is_load:
            done = self._client.store(self._namespace, self._region, names, spans)
        else:
            done = self._client.load(
                self._namespace, self._region, names, spans, deadline_ms=self._deadline_ms, until_quiet=True
            )

        def ended(future: Future[bytes]) -> None:
            with self._idle:
                self._ended.put((job_id, future.result()))
                self._unreported += 1
                self._idle.notify_all()

        done.add_done_callback(ended)

    def get_finished_jobs(self) -> Iterable[compat.JobResult]:
        results = []
        while True:
            try:
                job_id, outcomes = self._ended.get_nowait()
            except queue.Empty:
                return results
            with self._idle:
                self._unreported -= 1
            running = self._running.pop(job_id)
            good = (wire.LOADED,) if running.is_load else (wire.STORED, wire.DUPLICATE)
            failed = {key for key, outcome in zip(running.keys, outcomes, strict=True) if outcome not in good}
            if running.is_load and failed:
                log.debug("kvtier: %d of %d chunks were not loaded", len(failed), len(running.keys))
                self._lookups.mark_miss(failed)
            elif not running.is_load:
                self._stored([key for key in running.keys if key not in failed])
            seconds = time.monotonic() - running.started
            results.append(compat.job_result(job_id, failed, running.keys, seconds, self._row_bytes))

    def has_pending_work(self) -> bool:
        # Rows of a store stay pinned, and those of a load unusable, until their jobs are collected.
        return bool(self._running)

    def drain_jobs(self) -> None:
        """Waits for the agent, or, where it has hung, for its end: rows that may still be written are not given back."""
        with self._idle:
            while self._unreported < len(self._running):
                self._idle.wait(1.0)

    # --- events

    def _stored(self, keys: list[OffloadKey]) -> None:
        if self._events is not None and keys:
            self._events.append(OffloadingEvent(keys=keys, medium=self.medium, removed=False, locality=self.locality))

    def take_events(self) -> Iterable[OffloadingEvent]:
        if self._events is None or self._stream is None:
            return ()
        taken, self._events = self._events, []
        removed = [despelled(key) for key in self._stream.take_removed()]
        if removed:
            taken.append(OffloadingEvent(keys=removed, medium=self.medium, removed=True, locality=self.locality))
        return taken

    # --- end

    def touch(self, keys: Collection[OffloadKey], req_context: ReqContext) -> None:
        self._client.touch(self._namespace, [spelled(key) for key in keys])

    def shutdown(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._client.close()
        self._lookups.shutdown()
        self._region.close()


def _open_rows(sources: list[int | str], size: int) -> FileRegion:
    """The file behind the rows. ValueError where none of the sources is a file of that size."""
    for source in sources:
        try:
            region = FileRegion(source)
        except (OSError, ValueError) as problem:
            log.debug("the CPU tier is not at %s: %s", source, problem)
            continue
        if region.size >= size:
            return region
        region.close()
    raise ValueError(
        f"kvtier finds no file of {size} bytes behind vLLM's CPU tier (looked at {', '.join(map(str, sources)) or 'nothing'}): "
        "use the spec TieringOffloadingSpec"
    )

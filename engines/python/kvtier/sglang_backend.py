"""SGLang's HiCache storage backend on a kvtier agent: pages go between SGLang's host pool and the agent through shared memory.

Load it as a dynamic backend (docs/engines/sglang.md). The v1 interface is the one that is served: SGLang gives addresses of pages in its host pool,
we copy between them and a region that the agent has mapped. The pool itself is not shared with the agent: SGLang does not say which file it is.

Invariants
- ``batch_get_v1`` and ``batch_set_v1`` return a list of one bool for each key, whatever happens: None, or an exception, ends SGLang's prefetch
  thread for the life of the process.
- Keys of SGLang cover tokens alone. All else that makes bytes differ is in the namespace: model, dtype, page, layout, ranks, salt, and what the
  pool says of itself.
- A page counts as there only where all of its parts are; a page that was read in part is a miss.

Written from SGLang's sources (hicache_storage.py at 001067ff), and tested with a class of that shape: SGLang itself was not run.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from kvtier import wire
from kvtier.chunking import fingerprint, model_name
from kvtier.client import Client, Namespace
from kvtier.region import Region

try:
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorage
except ImportError:
    HiCacheStorage = object

log = logging.getLogger("kvtier")

DEFAULT_STAGING_BYTES = 256 * 1024 * 1024
DEFAULT_TIMEOUT_MS = 5000
#: Lookups are made by SGLang's prefetch thread, not by its scheduler.
LOOKUP_SECONDS = 0.05


def namespace_facts(config: Any) -> dict[str, Any]:
    """What SGLang's own keys leave out. MLA keeps the same bytes on every tensor-parallel rank, so these share."""
    mla = bool(getattr(config, "is_mla_model", False))
    names = ["pp_rank", "pp_size", "attn_cp_rank", "attn_cp_size", "is_page_first_layout", "tp_lcm_size", "should_split_heads"]
    facts = {name: getattr(config, name, None) for name in names}
    ranks = {} if mla else {"tp_rank": getattr(config, "tp_rank", 0), "tp_size": getattr(config, "tp_size", 1)}
    return {"engine": "sglang", "mla": mla, **facts, **ranks}


class KvtierHiCache(HiCacheStorage):  # type: ignore[misc]
    """``extra_config`` of the backend: socket, data_dir, token, namespace, weights_version, salt, staging_bytes, timeout_ms."""

    def __init__(self, storage_config: Any, kwargs: Any = None) -> None:
        extra = {**(getattr(storage_config, "extra_config", None) or {}), **(kwargs or {})}
        self._facts = {
            **namespace_facts(storage_config),
            "namespace": str(extra.get("namespace", "")),
            "salt": str(extra.get("salt", "")),
        }
        self._model = model_name(str(getattr(storage_config, "model_name", None) or "model"), None, extra.get("weights_version"))
        self._timeout_ms = int(extra.get("timeout_ms", DEFAULT_TIMEOUT_MS))
        self._client = Client(extra.get("socket"), data_dir=extra.get("data_dir"), token=str(extra.get("token", "")), name="sglang")
        self._size = int(extra.get("staging_bytes", DEFAULT_STAGING_BYTES))
        # Prefetch and backup are two threads.
        self._lock = threading.Lock()
        self._region = Region(self._size)
        self._namespace: Namespace | None = None
        self._pool: Any = None

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """Before anything else is asked; what the pool says of itself is part of the namespace."""
        self._pool = mem_pool_host
        names = ["dtype", "page_size", "layout", "layer_num", "head_num", "head_dim", "kv_lora_rank", "qk_rope_head_dim", "size_per_token"]
        pool = {name: str(getattr(mem_pool_host, name)) for name in names if hasattr(mem_pool_host, name)}
        facts = {**self._facts, "pool": type(mem_pool_host).__name__, **pool}
        log.info("kvtier layout: %s", facts)
        self._namespace = Namespace(self._model, fingerprint(facts))

    # --- v1

    def batch_exists(self, keys: Sequence[str], extra_info: Any = None) -> int:
        """Pages from the first on that are there."""
        if self._namespace is None or not keys:
            return 0
        try:
            # The first part is stored last, so that it stands for all of them.
            return self._client.lookup(self._namespace, [_part(key, 0) for key in keys], seconds=LOOKUP_SECONDS).prefix
        except Exception:
            log.exception("kvtier: a lookup failed")
            return 0

    def exists(self, key: str) -> bool:
        return self.batch_exists([key]) == 1

    def batch_get_v1(self, keys: Sequence[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        return self._moved(keys, host_indices, is_load=True)

    def batch_set_v1(self, keys: Sequence[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        return self._moved(keys, host_indices, is_load=False)

    def _moved(self, keys: Sequence[str], host_indices: Any, *, is_load: bool) -> list[bool]:
        nothing = [False] * len(keys)
        try:
            if self._namespace is None or not keys or not self._client.connected:
                return nothing
            pointers, sizes = self._pool.get_page_buffer_meta(host_indices)
            if len(pointers) % len(keys) != 0 or len(pointers) != len(sizes) or not pointers:
                log.error("kvtier: %d pages have %d addresses and %d sizes", len(keys), len(pointers), len(sizes))
                return nothing
            with self._lock:
                return self._move_all(keys, [*zip(map(int, pointers), map(int, sizes), strict=True)], is_load=is_load)
        except Exception:
            # SGLang's thread ends with what is raised here, and nobody starts it again.
            log.exception("kvtier: pages were not moved")
            return nothing

    def _move_all(self, keys: Sequence[str], places: list[tuple[int, int]], *, is_load: bool) -> list[bool]:
        """As many pages at once as there is room for."""
        parts = len(places) // len(keys)
        result: list[bool] = []
        while len(result) < len(keys):
            start, used, end = len(result), 0, len(result)
            while end < len(keys):
                wanted = sum(size for _, size in places[end * parts : (end + 1) * parts])
                if used + wanted > self._size:
                    break
                used, end = used + wanted, end + 1
            if end == start:
                log.error("kvtier: a page is larger than staging_bytes %d", self._size)
                return result + [False] * (len(keys) - start)
            moved = self._move(keys[start:end], places[start * parts : end * parts], parts, is_load=is_load)
            result += moved
            if is_load and not all(moved):
                # Pages behind a gap are of no use.
                return result + [False] * (len(keys) - end)
        return result

    def _move(self, keys: Sequence[str], places: list[tuple[int, int]], parts: int, *, is_load: bool) -> list[bool]:
        spans, at = [], 0
        for _, size in places:
            spans.append((at, size))
            at += size
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._region.memory))
        if not is_load:
            for (pointer, size), (offset, _) in zip(places, spans, strict=True):
                ctypes.memmove(base + offset, pointer, size)
            # Part 0 of a page last, and only where the others are there.
            rest = [index for index in range(len(places)) if index % parts != 0]
            there = self._job(keys, parts, rest, spans, is_load=False)
            heads = [number * parts for number in range(len(keys)) if all(there.get(number * parts + part) for part in range(1, parts))]
            return [bool(value) for value in self._heads(self._job(keys, parts, heads, spans, is_load=False), len(keys), parts)]
        loaded = self._job(keys, parts, [*range(len(places))], spans, is_load=True)
        whole = [all(loaded.get(number * parts + part) for part in range(parts)) for number in range(len(keys))]
        for number, good in enumerate(whole):
            for index in range(number * parts, (number + 1) * parts) if good else ():
                ctypes.memmove(places[index][0], base + spans[index][0], places[index][1])
        return whole

    @staticmethod
    def _heads(stored: dict[int, bool], count: int, parts: int) -> list[bool]:
        return [stored.get(number * parts, False) for number in range(count)]

    def _job(self, keys: Sequence[str], parts: int, indices: list[int], spans: list[wire.Span], *, is_load: bool) -> dict[int, bool]:
        """Which parts were moved, by their index."""
        if not indices or self._namespace is None:
            return {}
        names = [_part(keys[index // parts], index % parts) for index in indices]
        places = [spans[index] for index in indices]
        if is_load:
            job = self._client.load(self._namespace, self._region, names, places, deadline_ms=self._timeout_ms)
        else:
            job = self._client.store(self._namespace, self._region, names, places, chain=parts == 1)
        try:
            outcomes = job.result(self._timeout_ms / 1000 + 1.0)
        except FutureTimeout:
            log.warning("kvtier has not answered for %d ms", self._timeout_ms)
            outcomes = b"\xff" * len(names)
        good = (wire.LOADED,) if is_load else (wire.STORED, wire.DUPLICATE)
        if any(outcome in (5 if is_load else 9, 0xFF) for outcome in outcomes):
            # The agent may still use the memory: other memory from now on, which holds none of these pages.
            self._client.detach(self._region)
            self._region.close()
            self._region = Region(self._size)
            return {}
        return {index: outcome in good for index, outcome in zip(indices, outcomes, strict=True)}

    # --- what SGLang's base class wants to be there, and does not call with interface_v1

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> None:
        raise NotImplementedError('kvtier serves "interface_v1": 1')

    def batch_get(self, keys: Sequence[str], target_locations: Any = None, target_sizes: Any = None) -> None:
        raise NotImplementedError('kvtier serves "interface_v1": 1')

    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        raise NotImplementedError('kvtier serves "interface_v1": 1')

    def batch_set(self, keys: Sequence[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None) -> bool:
        raise NotImplementedError('kvtier serves "interface_v1": 1')

    def clear(self) -> None:
        """Takes this model's chunks away, of every layout. Where the agent is away nothing is cleared, and that is said."""
        try:
            self._client.invalidate({"selector": {"model": self._model}})
        except Exception:
            log.exception("kvtier: nothing was cleared")

    def get_stats(self) -> None:
        return None

    def close(self) -> None:
        self._client.close()
        self._region.close()


def _part(key: str, part: int) -> bytes:
    return f"{key}.{part}".encode()

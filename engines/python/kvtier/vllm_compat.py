"""Where releases of vLLM differ in what kvtier.vllm_tier uses; nothing else of the package knows of releases.

Tried: 0.32.0. Written from the sources of others and not tried: 0.28 and newer (the same names), 0.25 to 0.27 (``JobMetadata`` with ``block_ids``,
no ``successful_keys``, no AsyncLookupManager in some). Before 0.25 there is no LookupResult: not served.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from vllm.v1.kv_offload.tiering import base as tiering
from vllm.v1.kv_offload.tiering.async_lookup import AsyncLookupManager
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager

__all__ = ["AsyncLookupManager", "JobResult", "SecondaryTierManager", "base_arguments", "job_result", "region_source", "rows_of"]

_fields = {field.name for field in dataclasses.fields(JobResult)}


def rows_of(job: Any) -> list[int]:
    """Rows of the primary tier, one for each key."""
    rows = job.chunk_ids if hasattr(job, "chunk_ids") else job.block_ids
    return [int(row) for row in rows]


def job_result(job_id: int, failed: Collection[bytes], keys: Collection[bytes], seconds: float, size: int) -> JobResult:
    """All, some or none of the keys have been moved."""
    moved = tuple(key for key in keys if key not in failed)
    wanted = {
        "successful_keys": moved if failed and moved else None,
        "transfer_time": seconds,
        "transfer_bytes": size * len(moved),
        "transfer_size": size * len(moved),
    }
    return JobResult(job_id, not failed, **{name: value for name, value in wanted.items() if name in _fields})


def base_arguments(detector: Any) -> dict[str, Any]:
    """What the base class of this release wants besides its first three arguments."""
    return {"backpressure_detector": detector} if hasattr(tiering, "BackpressureDetector") else {}


def region_source(spec: Any) -> list[int | str]:
    """The file of the primary tier: its descriptor where the spec has it open, and its path."""
    opened = getattr(getattr(spec, "_scheduler_mmap", None), "fd", None)
    engine = getattr(getattr(spec, "config", None), "engine_id", None) or getattr(spec, "_engine_id", None)
    paths = [f"/dev/shm/vllm_offload_{engine}.mmap"] if engine else []
    return ([opened] if opened is not None else []) + paths

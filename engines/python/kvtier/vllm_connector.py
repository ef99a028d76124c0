"""vLLM's KVConnectorBase_V1 on a kvtier agent: for CPU engines, and for GPU engines whose release has no tiering spec.

The scheduler's half asks the agent which chunks of a prompt it has (one round trip) and names blocks to the worker's half, which copies
between the engine's blocks and a piece of shared memory, out of which the agent stores and into which it loads. A load is awaited before the
forward pass; a store is not. Whatever goes wrong is a miss: blocks that could not be loaded are reported, and the engine computes them.

Config (``kv_connector_extra_config``), all optional:
  socket          path of the agent's socket; else KVTIER_SOCKET, else the agent.json of data_dir
  data_dir        the agent's data directory
  chunk_tokens    tokens of a chunk; a multiple of the engine's block size, about 256 by default
  staging_bytes   shared memory for chunks on their way, for each worker; 256 MiB by default
  load_timeout_ms how long a load may take before its blocks are computed; 5000 by default
  lookup_timeout_ms  how long the scheduler may wait for a lookup before nothing is found; 5 by default
  weights_version what tells weights apart that change under one model name
  salt_is_tenant  true: a request's cache_salt is the tenant of its chunks, instead of a part of their hash
  store           false: load only

Source: vllm/distributed/kv_transfer/kv_connector/v1/base.py of vLLM 0.32 and its ExampleConnector, read for the rules of the interface.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import vllm
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, KVConnectorRole

from kvtier.chunking import Chain, blocks_of, fingerprint, model_name, root_of, whole_chunks
from kvtier.staging import Staging

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.forward_context import ForwardContext
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request

log = logging.getLogger("kvtier")
# Where the engine's own lines go; it configures the loggers of its own name alone.
log.parent = logging.getLogger("vllm")

DEFAULT_CHUNK_TOKENS = 256
DEFAULT_STAGING_BYTES = 256 * 1024 * 1024
DEFAULT_LOAD_TIMEOUT_MS = 5000
#: Steps that may be scheduled before the failure of one is known (asynchronous scheduling, pipeline stages), and a few more.
STEPS_IN_FLIGHT = 8
SALT_SHAPE = re.compile(r"[^@\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,128}")


@dataclass
class ChunkMove:
    """Chunks between the agent and blocks of the engine. ``skip`` blocks of the first chunk are the engine's already and stay as they are."""

    salt: str
    keys: list[str]
    blocks: list[list[int]]
    skip: int = 0
    parent: str = ""


@dataclass
class KvtierMetadata(KVConnectorMetadata):
    """``step`` counts schedules; ``seen``: as of which of them failed loads are known to the scheduler."""

    loads: list[ChunkMove] = field(default_factory=list)
    stores: list[ChunkMove] = field(default_factory=list)
    step: int = 0
    seen: int = 0


@dataclass
class Tracked:
    """A request as the scheduler's half knows it."""

    request: Any
    salt: str
    chain: Chain
    block_ids: list[int] = field(default_factory=list)
    #: Chunks that the agent has, or was given.
    stored: int = 0


@dataclass(frozen=True)
class Layout:
    """What both halves must agree on; made of what both are given."""

    model: str
    fingerprint: str
    block_tokens: int
    chunk_tokens: int
    layers: tuple[str, ...]
    block_bytes: int
    ranks: int

    @property
    def blocks_per_chunk(self) -> int:
        return self.chunk_tokens // self.block_tokens

    @property
    def chunk_bytes(self) -> int:
        return self.block_bytes * self.blocks_per_chunk * len(self.layers)


def layout_of(config: VllmConfig, kv_cache_config: KVCacheConfig, extra: dict[str, Any]) -> Layout:
    """Raises ValueError for what cannot be served; the message says what to change."""
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1:
        raise ValueError(f"kvtier serves models with one KV cache group, not {len(groups)}: start vLLM with --disable-hybrid-kv-cache-manager")
    spec = groups[0].kv_cache_spec
    model, parallel, cache = config.model_config, config.parallel_config, config.cache_config
    block = int(spec.block_size)
    wanted = int(extra.get("chunk_tokens", max(block, DEFAULT_CHUNK_TOKENS // block * block)))
    if wanted <= 0 or wanted % block != 0:
        raise ValueError(f"chunk_tokens {wanted} is no multiple of the engine's block of {block} tokens")
    facts = {
        "engine": "vllm",
        "release": vllm.__version__,
        "dtype": str(model.dtype),
        "cache_dtype": str(cache.cache_dtype),
        "quantization": str(model.quantization),
        "revision": str(getattr(model, "revision", None)),
        "block": block,
        "chunk": wanted,
        "layers": list(groups[0].layer_names),
        "spec": repr(spec),
        "kv_layout": str(getattr(kv_cache_config, "kv_cache_layout", None)),
        "backend": str(getattr(getattr(config, "attention_config", None), "backend", None)),
        "device": str(config.device_config.device_type),
        "cpu": torch.backends.cpu.get_cpu_capability() if str(config.device_config.device_type) == "cpu" else "",
        "tp": parallel.tensor_parallel_size,
        "pp": parallel.pipeline_parallel_size,
        "torch": torch.__version__,
    }
    log.info("kvtier layout: %s", facts)
    served = model.served_model_name
    name = served[0] if isinstance(served, list) and served else (served or model.model)
    return Layout(
        model=model_name(str(name), getattr(model, "revision", None), extra.get("weights_version")),
        fingerprint=fingerprint(facts),
        block_tokens=block,
        chunk_tokens=wanted,
        layers=tuple(groups[0].layer_names),
        block_bytes=int(spec.page_size_bytes),
        ranks=parallel.tensor_parallel_size,
    )


def salt_of(request: Request) -> str:
    return str(getattr(request, "cache_salt", None) or "")


def tenant_of(request: Request) -> str:
    """The salt as the name of a tenant; one that cannot be a name, by its hash: who sends it must not end the engine."""
    salt = salt_of(request)
    return salt if not salt or SALT_SHAPE.fullmatch(salt) else "sha256-" + hashlib.sha256(salt.encode("utf-8", "surrogatepass")).hexdigest()


def chain_of(request: Request, chunk_tokens: int, salt_is_tenant: bool) -> Chain | None:
    """None where the KV does not follow from tokens and identifiers."""
    if getattr(request, "prompt_embeds", None) is not None or getattr(request, "prompt_token_ids", None) is None:
        return None
    adapter = getattr(getattr(request, "lora_request", None), "lora_name", "") or ""
    media = []
    for feature in getattr(request, "mm_features", None) or ():
        start = int(feature.mm_position.offset)
        media.append((start, start + int(feature.mm_position.length), str(feature.identifier)))
    salt = "" if salt_is_tenant else salt_of(request)
    return Chain(chunk_tokens, root_of(adapter=adapter, salt=salt), media)


class SchedulerHalf:
    """Decides; touches no block. Runs on the scheduler's thread, so it never waits longer than a lookup's few milliseconds."""

    def __init__(self, layout: Layout, extra: dict[str, Any], staging: Staging) -> None:
        self._layout = layout
        self._staging = staging
        self._salt_is_tenant = bool(extra.get("salt_is_tenant", False))
        self._stores = bool(extra.get("store", True))
        self._requests: dict[str, Tracked] = {}
        self._found: dict[str, int] = {}
        self._loads: list[ChunkMove] = []
        self._step = 0
        self._seen = 0

    def matched(self, request: Request, computed: int) -> int:
        """Tokens that can be loaded beyond the ``computed`` ones."""
        tracked = self._track(request)
        if tracked is None:
            return 0
        size = self._layout.chunk_tokens
        limit = whole_chunks(request.num_tokens, size)
        keys = tracked.chain.extend(request.all_token_ids, limit * size)[:limit]
        if not keys:
            return 0
        found = min(self._staging.lookup(rank, tracked.salt, keys) for rank in range(self._layout.ranks))
        self._found[request.request_id] = found
        tracked.stored = max(tracked.stored, found)
        return max(0, found * size - computed)

    def _track(self, request: Request) -> Tracked | None:
        known = self._requests.get(request.request_id)
        if known is not None:
            return known
        chain = chain_of(request, self._layout.chunk_tokens, self._salt_is_tenant)
        if chain is None:
            return None
        tracked = Tracked(request, tenant_of(request) if self._salt_is_tenant else "", chain)
        self._requests[request.request_id] = tracked
        return tracked

    def allocated(self, request: Request, blocks: KVCacheBlocks, external: int) -> None:
        tracked = self._track(request)
        if tracked is None:
            return
        tracked.block_ids = list(blocks.get_block_ids()[0])
        if external == 0:
            return
        layout = self._layout
        found = self._found.get(request.request_id, 0)
        computed = found * layout.chunk_tokens - external
        first = computed // layout.chunk_tokens
        placed = [blocks_of(chunk, layout.blocks_per_chunk, tracked.block_ids) for chunk in range(first, found)]
        if any(ids is None for ids in placed):
            raise RuntimeError(f"request {request.request_id} has {len(tracked.block_ids)} blocks, too few for {found} chunks")
        skip = (computed - first * layout.chunk_tokens) // layout.block_tokens
        self._loads.append(ChunkMove(tracked.salt, tracked.chain.keys[first:found], [ids for ids in placed if ids is not None], skip))

    def metadata(self, output: SchedulerOutput) -> KvtierMetadata:
        self._step += 1
        meta = KvtierMetadata(loads=self._loads, step=self._step, seen=self._seen)
        self._loads = []
        for new in output.scheduled_new_reqs:
            self._schedule(meta, new.req_id, list(new.block_ids[0]), new.num_computed_tokens, output)
        cached = output.scheduled_cached_reqs
        for index, req_id in enumerate(cached.req_ids):
            tracked = self._requests.get(req_id)
            if tracked is None:
                continue
            fresh = cached.new_block_ids[index]
            ids = tracked.block_ids
            if fresh is not None:
                ids = list(fresh[0]) if req_id in cached.resumed_req_ids else [*ids, *fresh[0]]
            self._schedule(meta, req_id, ids, cached.num_computed_tokens[index], output)
        return meta

    def _schedule(self, meta: KvtierMetadata, req_id: str, block_ids: list[int], computed: int, output: SchedulerOutput) -> None:
        tracked = self._requests.get(req_id)
        if tracked is None:
            return
        tracked.block_ids = block_ids
        if not self._stores:
            return
        layout = self._layout
        request = tracked.request
        # Of what this step computes, tokens of the prompt are certain; what was sampled may be taken back (speculation).
        after = min(computed + output.num_scheduled_tokens[req_id], request.num_prompt_tokens)
        whole = max(computed, after) // layout.chunk_tokens
        if whole <= tracked.stored:
            return
        keys = tracked.chain.extend(request.all_token_ids, whole * layout.chunk_tokens)
        first = tracked.stored
        placed = [blocks_of(chunk, layout.blocks_per_chunk, block_ids) for chunk in range(first, min(whole, len(keys)))]
        blocks = [ids for ids in placed if ids is not None]
        if not blocks:
            return
        parent = keys[first - 1] if first > 0 else ""
        meta.stores.append(ChunkMove(tracked.salt, keys[first : first + len(blocks)], blocks, parent=parent))
        tracked.stored = first + len(blocks)

    def failed(self, block_ids: set[int]) -> None:
        """What was to be stored behind blocks that were not loaded was not: it is computed again, and stored then."""
        self._seen = self._step
        for tracked in self._requests.values():
            bad = [index for index, block in enumerate(tracked.block_ids) if block in block_ids]
            if bad:
                tracked.stored = min(tracked.stored, bad[0] // self._layout.blocks_per_chunk)

    def finished(self, request: Request) -> None:
        self._requests.pop(request.request_id, None)
        self._found.pop(request.request_id, None)


class WorkerHalf:
    """Moves bytes between blocks of the engine and the staging memory."""

    def __init__(self, layout: Layout, extra: dict[str, Any], staging: Staging, rank: int) -> None:
        self._layout = layout
        self._staging = staging
        self._rank = rank
        self._timeout_ms = int(extra.get("load_timeout_ms", DEFAULT_LOAD_TIMEOUT_MS))
        self._caches: list[torch.Tensor] = []
        self._failed: set[int] = set()
        self._failed_step = 0
        self.disabled = ""

    def register(self, caches: dict[str, torch.Tensor], num_blocks: int) -> None:
        """Takes the caches in the order that both halves know; what is not as expected turns the worker off."""
        layout = self._layout
        missing = [name for name in layout.layers if name not in caches]
        if missing:
            self._turn_off(f"vLLM registered no KV cache for {missing[0]}")
            return
        tensors = []
        for name in layout.layers:
            cache = caches[name]
            axis = 0 if cache.shape[0] == num_blocks else 1
            if cache.dim() < 2 or cache.shape[axis] != num_blocks:
                self._turn_off(f"the KV cache of {name} has the shape {tuple(cache.shape)}, in which no axis is {num_blocks} blocks")
                return
            # Block by block, whatever lies between K and V of one.
            cache = cache if axis == 0 else cache.transpose(0, 1)
            size = cache[0].numel() * cache.element_size()
            if size != layout.block_bytes:
                self._turn_off(f"a block of {name} has {size} bytes, and not {layout.block_bytes}")
                return
            tensors.append(cache)
        self._caches = tensors

    def _turn_off(self, why: str) -> None:
        self.disabled = why
        log.error("kvtier loads and stores nothing: %s", why)

    def load(self, moves: list[ChunkMove], step: int) -> None:
        for move in moves:
            for start in range(0, len(move.keys), self._staging.slots):
                part = slice(start, start + self._staging.slots)
                if not self._load_part(move.salt, move.keys[part], move.blocks[part], move.skip if start == 0 else 0):
                    self._failed.update(block for ids in move.blocks[start + self._staging.slots :] for block in ids)
                    break
        if self._failed:
            self._failed_step = step

    def _load_part(self, salt: str, keys: list[str], blocks: list[list[int]], skip: int) -> bool:
        """False where a chunk is missing: those behind it are of no use."""
        if self.disabled:
            self._failed.update(block for index, ids in enumerate(blocks) for block in ids[skip if index == 0 else 0 :])
            return False
        with self._staging.load(self._rank, salt, keys, self._timeout_ms) as loaded:
            whole = True
            for index, (ids, slot) in enumerate(zip(blocks, loaded, strict=True)):
                # A chunk behind a gap is of no use: its blocks would be computed on wrong ground.
                whole = whole and slot is not None
                kept = ids[skip:] if index == 0 else ids
                if slot is None or not whole:
                    self._failed.update(kept)
                else:
                    self._scatter(slot, ids, len(ids) - len(kept))
            return whole

    def _scatter(self, memory: torch.Tensor, ids: list[int], skip: int) -> None:
        view = memory.view(len(self._caches), len(ids), -1)
        index = torch.tensor(ids[skip:], dtype=torch.long)
        for layer, cache in enumerate(self._caches):
            piece = view[layer, skip:].view(cache.dtype).view(len(ids) - skip, *cache.shape[1:])
            cache[index.to(cache.device)] = piece.to(cache.device)

    def store(self, moves: list[ChunkMove], step: int, seen: int) -> None:
        if self.disabled:
            return
        if self._failed_step > 0:
            # Until the scheduler has taken the failure in, requests go on computing on blocks that hold nothing of worth.
            if seen < self._failed_step or step < self._failed_step + STEPS_IN_FLIGHT:
                return
            self._failed_step = 0
        for move in moves:
            self._staging.store(self._rank, move.salt, move.keys, move.parent, lambda index, memory, move=move: self._gather(move.blocks[index], memory))

    def _gather(self, ids: list[int], memory: torch.Tensor) -> None:
        view = memory.view(len(self._caches), len(ids), -1)
        index = torch.tensor(ids, dtype=torch.long)
        for layer, cache in enumerate(self._caches):
            piece = cache[index.to(cache.device)].contiguous().to("cpu")
            view[layer].copy_(piece.view(len(ids), -1).view(torch.uint8))

    def take_failed(self) -> set[int]:
        failed, self._failed = self._failed, set()
        return failed


class KvtierConnector(KVConnectorBase_V1):
    """``{"kv_connector":"KvtierConnector","kv_role":"kv_both","kv_connector_module_path":"kvtier.vllm_connector"}``"""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        extra = dict(self._kv_transfer_config.kv_connector_extra_config or {})
        self._layout = layout_of(vllm_config, kv_cache_config, extra)
        if self._kv_transfer_config.kv_load_failure_policy != "recompute":
            log.warning(
                'kvtier: a load that fails will fail its request: add "kv_load_failure_policy":"recompute" to --kv-transfer-config, '
                "so that the engine computes those tokens"
            )
        self._num_blocks = kv_cache_config.num_blocks
        rank = getattr(vllm_config.parallel_config, "rank", 0) % max(1, self._layout.ranks)
        staging = Staging(
            model=self._layout.model,
            layout=self._layout.fingerprint,
            chunk_bytes=self._layout.chunk_bytes,
            staging_bytes=int(extra.get("staging_bytes", DEFAULT_STAGING_BYTES)) if role == KVConnectorRole.WORKER else 0,
            socket=extra.get("socket"),
            data_dir=extra.get("data_dir"),
            token=extra.get("token", ""),
            name=f"vllm-{role.name.lower()}-{rank}",
            lookup_ms=float(extra.get("lookup_timeout_ms", 5)),
        )
        self._staging = staging
        self._scheduler = SchedulerHalf(self._layout, extra, staging) if role == KVConnectorRole.SCHEDULER else None
        self._worker = WorkerHalf(self._layout, extra, staging, rank) if role == KVConnectorRole.WORKER else None

    # scheduler

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        assert self._scheduler is not None
        return self._scheduler.matched(request, num_computed_tokens), False

    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        assert self._scheduler is not None
        self._scheduler.allocated(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        assert self._scheduler is not None
        return self._scheduler.metadata(scheduler_output)

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        assert self._scheduler is not None
        if connector_output.invalid_block_ids:
            self._scheduler.failed(connector_output.invalid_block_ids)

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        assert self._scheduler is not None
        self._scheduler.finished(request)
        # What was to be stored was copied out of the blocks at the end of its step.
        return False, None

    # worker

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        assert self._worker is not None
        self._worker.register(kv_caches, self._num_blocks)

    def start_load_kv(self, forward_context: ForwardContext, **kwargs: Any) -> None:
        assert self._worker is not None
        meta = self._get_connector_metadata()
        assert isinstance(meta, KvtierMetadata)
        if not meta.loads:
            return
        started = time.monotonic()
        self._worker.load(meta.loads, meta.step)
        chunks = sum(len(move.keys) for move in meta.loads)
        log.info("kvtier loaded %d chunks of %d tokens in %.1f ms", chunks, self._layout.chunk_tokens, 1000 * (time.monotonic() - started))

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Loads are whole before the forward pass begins."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """All layers are stored together, in wait_for_save."""

    def wait_for_save(self) -> None:
        assert self._worker is not None
        meta = self._get_connector_metadata()
        assert isinstance(meta, KvtierMetadata)
        self._worker.store(meta.stores, meta.step, meta.seen)

    def get_block_ids_with_load_errors(self) -> set[int]:
        assert self._worker is not None
        return self._worker.take_failed()

    def shutdown(self) -> None:
        self._staging.close()

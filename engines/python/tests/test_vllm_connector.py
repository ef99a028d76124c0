"""Staging and both halves of the connector with stub requests and a real agent. vLLM's modules are stood in for where it is not installed; torch is needed."""

from __future__ import annotations

import sys
import time
import types
import unittest
from types import SimpleNamespace as Stub

from tests.support import AgentCase, needs_agent, until

try:
    import torch

    MISSING = ""
except ImportError as problem:
    MISSING = str(problem)

if not MISSING:
    try:
        import vllm.distributed.kv_transfer.kv_connector.v1.base as _base  # noqa: F401
    except ImportError:
        for _name in ["vllm", *("vllm." + ".".join("distributed.kv_transfer.kv_connector.v1.base".split(".")[:end]) for end in range(1, 6))]:
            sys.modules[_name] = types.ModuleType(_name)
        for _name in ("KVConnectorBase_V1", "KVConnectorMetadata", "KVConnectorRole"):
            setattr(sys.modules["vllm.distributed.kv_transfer.kv_connector.v1.base"], _name, type(_name, (), {}))
    from kvtier import vllm_connector as connector
    from kvtier.staging import Staging

BLOCK, CHUNK, LAYERS, BLOCKS = 16, 32, ("l0", "l1"), 64
#: Bytes of a block of one layer: 2 heads, 16 tokens, 8 numbers of 2 bytes.
BLOCK_BYTES = 2 * BLOCK * 8 * 2


def request(tokens: list[int], name: str = "r", **more: object) -> Stub:
    fields = {"cache_salt": None, "lora_request": None, "mm_features": [], "prompt_embeds": None, "prompt_token_ids": tokens}
    return Stub(request_id=name, all_token_ids=tokens, num_tokens=len(tokens), num_prompt_tokens=len(tokens), **{**fields, **more})


def blocks(ids: list[int]) -> Stub:
    return Stub(get_block_ids=lambda: (ids,))


def output(new: list[tuple[str, list[int], int, int]] = [], cached: list[tuple[str, list[int] | None, int, int, bool]] = []) -> Stub:  # noqa: B006
    """New: request, blocks, computed, scheduled. Cached: and whether it is resumed."""
    return Stub(
        scheduled_new_reqs=[Stub(req_id=name, block_ids=(ids,), num_computed_tokens=computed) for name, ids, computed, _ in new],
        scheduled_cached_reqs=Stub(
            req_ids=[item[0] for item in cached],
            new_block_ids=[None if item[1] is None else (item[1],) for item in cached],
            num_computed_tokens=[item[2] for item in cached],
            resumed_req_ids={item[0] for item in cached if item[4]},
        ),
        num_scheduled_tokens={item[0]: item[3] for item in [*new, *cached]},
    )


@unittest.skipIf(MISSING, f"no torch: {MISSING}")
@needs_agent
class ConnectorCase(AgentCase):
    def layout(self) -> connector.Layout:
        return connector.Layout("m", "ab" * 16, BLOCK, CHUNK, LAYERS, BLOCK_BYTES, 1)

    def staging(self, slots: int = 8) -> Staging:
        layout = self.layout()
        made = Staging(model="m", layout=layout.fingerprint, chunk_bytes=layout.chunk_bytes, staging_bytes=slots * layout.chunk_bytes, socket=self.agent.socket)
        self.addCleanup(made.close)
        return made

    def halves(self, **extra: object) -> tuple[connector.SchedulerHalf, connector.WorkerHalf]:
        layout = self.layout()
        self.store_staging = self.staging()
        worker = connector.WorkerHalf(layout, extra, self.store_staging, 0)
        self.caches = {name: torch.randn(BLOCKS, 2, BLOCK, 8).to(torch.bfloat16) for name in LAYERS}
        worker.register(self.caches, BLOCKS)
        self.assertEqual(worker.disabled, "")
        # What two loaded machines may take is not what is tested here.
        scheduling = self.staging(0)
        ask = scheduling._client.lookup
        scheduling._client.lookup = lambda *a, **k: ask(*a, **{**k, "seconds": 2})
        return connector.SchedulerHalf(layout, extra, scheduling), worker

    def run_step(self, scheduler, worker, out: Stub, settle: bool = True) -> connector.KvtierMetadata:  # noqa: ANN001
        meta = scheduler.metadata(out)
        worker.load(meta.loads, meta.step)
        worker.store(meta.stores, meta.step, meta.seen)
        if settle:
            self.store_staging.settle(5)
        return meta

    def same(self, first: list[int], second: list[int]) -> bool:
        return all(torch.equal(cache[first], cache[second]) for cache in self.caches.values())


class TestHalves(ConnectorCase):
    def first(self, tokens: list[int], **more: object) -> tuple:
        """A request that computes and stores all of its prompt, in blocks from 0."""
        scheduler, worker = self.halves(**more.pop("extra", {}))
        asked = request(tokens, "first", **more)
        self.assertEqual(scheduler.matched(asked, 0), 0)
        ids = list(range(-(-len(tokens) // BLOCK)))
        scheduler.allocated(asked, blocks(ids), 0)
        self.run_step(scheduler, worker, output([("first", ids, 0, len(tokens))]))
        scheduler.finished(asked)
        return scheduler, worker

    def test_stored_and_loaded_into_other_blocks(self) -> None:
        tokens = list(range(100))
        scheduler, worker = self.first(tokens)
        asked = request(tokens, "second")
        self.assertEqual(scheduler.matched(asked, 0), 96)
        ids = list(range(20, 27))
        scheduler.allocated(asked, blocks(ids), 96)
        meta = self.run_step(scheduler, worker, output([("second", ids, 96, 4)]))
        self.assertEqual(meta.stores, [])
        self.assertTrue(self.same(list(range(6)), ids[:6]))
        self.assertEqual(worker.take_failed(), set())

    def test_a_token_is_left_to_compute(self) -> None:
        tokens = list(range(96))
        scheduler, _ = self.first(tokens)
        self.assertEqual(scheduler.matched(request(tokens, "second"), 0), 64)

    def test_a_prefix_that_is_half_there_stays_as_it_is(self) -> None:
        tokens = list(range(100))
        scheduler, worker = self.first(tokens)
        asked = request(tokens, "second")
        self.assertEqual(scheduler.matched(asked, 48), 48)
        ids = list(range(20, 27))
        before = {name: cache[20:23].clone() for name, cache in self.caches.items()}
        scheduler.allocated(asked, blocks(ids), 48)
        meta = self.run_step(scheduler, worker, output([("second", ids, 96, 4)]))
        self.assertEqual((len(meta.loads[0].keys), meta.loads[0].skip), (2, 1))
        self.assertTrue(all(torch.equal(cache[20:23], before[name]) for name, cache in self.caches.items()))
        self.assertTrue(self.same([3, 4, 5], [23, 24, 25]))

    def test_a_longer_local_prefix_loads_nothing(self) -> None:
        tokens = list(range(100))
        scheduler, _ = self.first(tokens)
        self.assertEqual(scheduler.matched(request(tokens, "second"), 96), 0)

    def test_prefill_in_pieces(self) -> None:
        scheduler, worker = self.halves()
        asked = request(list(range(100)))
        scheduler.matched(asked, 0)
        scheduler.allocated(asked, blocks([0, 1, 2]), 0)
        counts = [len(move.keys) for move in self.run_step(scheduler, worker, output([("r", [0, 1, 2], 0, 40)])).stores]
        self.assertEqual(counts, [1])
        meta = self.run_step(scheduler, worker, output(cached=[("r", [3, 4], 40, 40, False)]))
        self.assertEqual([move.blocks for move in meta.stores], [[[2, 3]]])
        self.assertEqual(meta.stores[0].parent, scheduler._requests["r"].chain.keys[0])
        meta = self.run_step(scheduler, worker, output(cached=[("r", [5, 6], 80, 20, False)]))
        self.assertEqual([move.blocks for move in meta.stores], [[[4, 5]]])
        scheduler.finished(asked)
        self.assertEqual(scheduler.matched(request(list(range(100)), "again"), 0), 96)

    def test_preempted_and_resumed(self) -> None:
        scheduler, worker = self.halves()
        tokens = list(range(100))
        asked = request(tokens)
        scheduler.matched(asked, 0)
        scheduler.allocated(asked, blocks([0, 1, 2, 3]), 0)
        self.run_step(scheduler, worker, output([("r", [0, 1, 2, 3], 0, 64)]))
        # Its blocks went to others; what the agent has comes back into new ones.
        self.assertEqual(scheduler.matched(asked, 0), 64)
        ids = [30, 31, 32, 33, 34, 35, 36]
        scheduler.allocated(asked, blocks(ids), 64)
        meta = self.run_step(scheduler, worker, output(cached=[("r", ids, 64, 36, True)]))
        self.assertEqual(meta.loads[0].blocks, [[30, 31], [32, 33]])
        self.assertEqual([move.blocks for move in meta.stores], [[[34, 35]]])
        self.assertTrue(self.same([0, 1, 2, 3], ids[:4]))

    def test_a_load_that_fails_is_told_and_poisons_nothing(self) -> None:
        tokens = list(range(200))
        scheduler, worker = self.first(tokens[:100])
        asked = request(tokens, "second")
        self.assertEqual(scheduler.matched(asked, 0), 96)
        self.store_staging._client.invalidate({"selector": {"model": "m"}})
        ids = list(range(20, 33))
        scheduler.allocated(asked, blocks(ids), 96)
        # The same step computes more on blocks that were not loaded, and so does the next one, which was scheduled before the failure was known.
        self.run_step(scheduler, worker, output([("second", ids, 96, 64)]))
        failed = worker.take_failed()
        self.assertEqual(failed, set(ids[:6]))
        meta = self.run_step(scheduler, worker, output(cached=[("second", None, 160, 40, False)]))
        self.assertTrue(meta.stores)
        keys = [key.encode() for key in scheduler._requests["second"].chain.keys]
        found = self.store_staging._client.lookup(self.store_staging._namespace(0, ""), keys, prefix=False, peek=True, seconds=5)
        self.assertEqual(found.tiers, bytes(6), "nothing was stored on blocks that hold nothing of worth")
        scheduler.failed(failed)
        for _ in range(connector.STEPS_IN_FLIGHT):
            self.run_step(scheduler, worker, output())
        # Computed again from the first block on.
        meta = self.run_step(scheduler, worker, output(cached=[("second", None, 0, 200, False)]))
        self.assertEqual(len(meta.stores[0].keys), 6)
        self.assertEqual(scheduler.matched(request(tokens, "third"), 0), 192)

    def test_a_chunk_behind_a_gap_fails_with_it(self) -> None:
        scheduler, worker = self.first(list(range(100)))
        keys = connector.chain_of(request(list(range(100))), CHUNK, False).extend(list(range(100)))
        move = connector.ChunkMove("", [keys[0], "0" * 32, keys[2]], [[20, 21], [22, 23], [24, 25]])
        worker.load([move], 1)
        self.assertEqual(worker.take_failed(), {22, 23, 24, 25})

    def test_salt(self) -> None:
        tokens = list(range(100))
        scheduler, _ = self.first(tokens, cache_salt="a")
        self.assertEqual(scheduler.matched(request(tokens, "x", cache_salt="a"), 0), 96)
        self.assertEqual(scheduler.matched(request(tokens, "y", cache_salt="b"), 0), 0)
        self.assertEqual(scheduler.matched(request(tokens, "z"), 0), 0)

    def test_salt_as_tenant(self) -> None:
        tokens = list(range(100))
        scheduler, worker = self.first(tokens, cache_salt="team", extra={"salt_is_tenant": True})
        self.assertEqual(scheduler.matched(request(tokens, "x", cache_salt="team"), 0), 96)
        self.assertEqual(scheduler.matched(request(tokens, "y"), 0), 0)
        for number, bad in enumerate(("a@b", "x" * 300, "\n", "\ud800")):
            self.assertEqual(scheduler.matched(request(tokens, f"bad{number}", cache_salt=bad), 0), 0)
        self.assertEqual(scheduler.matched(request(tokens, "w", cache_salt="team"), 0), 96)

    def test_embeddings_are_left_alone(self) -> None:
        scheduler, _ = self.first(list(range(100)))
        self.assertEqual(scheduler.matched(request(list(range(100)), "e", prompt_embeds=object()), 0), 0)

    def test_load_only(self) -> None:
        scheduler, worker = self.halves(store=False)
        asked = request(list(range(100)))
        scheduler.matched(asked, 0)
        self.assertEqual(self.run_step(scheduler, worker, output([("r", list(range(7)), 0, 100)])).stores, [])

    def test_a_cache_of_another_shape_turns_it_off(self) -> None:
        _, worker = self.halves()
        with self.assertLogs("kvtier", "ERROR"):
            worker.register({name: torch.zeros(BLOCKS, 3, BLOCK, 8) for name in LAYERS}, BLOCKS)
        worker.load([connector.ChunkMove("", ["0" * 32], [[1, 2]], skip=1)], 1)
        self.assertEqual(worker.take_failed(), {2})


class TestStaging(ConnectorCase):
    def fill(self, value: int):  # noqa: ANN201
        return lambda index, memory: memory.fill_(value + index)

    def test_slots_come_back(self) -> None:
        staging = self.staging(3)
        for turn in range(10):
            staging.store(0, "", [f"{turn}-{index}" for index in range(5)], "", self.fill(turn))
        staging.settle(10)
        self.assertEqual((sorted(staging._free), staging.dropped), ([0, 1, 2], 0))
        with staging.load(0, "", ["9-0", "no", "9-2"], 5000) as loaded:
            self.assertIsNone(loaded[1])
            self.assertEqual([int(loaded[0][0]), int(loaded[2][-1])], [9, 11])
        self.assertEqual(sorted(staging._free), [0, 1, 2])

    def test_a_load_that_is_not_answered_gets_other_memory(self) -> None:
        staging = self.staging(3)
        staging.store(0, "", ["a"], "", self.fill(7))
        staging.settle(10)
        before = staging._region
        with self.agent.hung():
            started = time.monotonic()
            with self.assertLogs("kvtier", "WARNING"), staging.load(0, "", ["a"], 100) as loaded:
                self.assertEqual(loaded, [None])
            self.assertLess(time.monotonic() - started, 3)
            self.assertIsNot(staging._region, before)
            self.assertEqual(before.fd, -1)
        until("the agent", lambda: staging._client.connected)
        with staging.load(0, "", ["a"], 5000) as loaded:
            self.assertEqual(int(loaded[0][0]), 7)

    def test_a_hung_agent_costs_a_store_one_wait(self) -> None:
        staging = self.staging(2)
        with self.agent.hung():
            staging.store(0, "", ["a", "b", "c"], "", self.fill(1))
            started = time.monotonic()
            for _ in range(5):
                staging.store(0, "", ["d"], "", self.fill(1))
            self.assertLess(time.monotonic() - started, 0.1)
            self.assertEqual(staging.dropped, 6)
        staging.settle(10)
        staging.store(0, "", ["d"], "", self.fill(1))
        self.assertEqual(staging.dropped, 6)

    def test_killed_under_a_load(self) -> None:
        staging = self.staging(3)
        self.agent.kill()
        with staging.load(0, "", ["a"], 5000) as loaded:
            self.assertEqual(loaded, [None])
        staging.store(0, "", ["a"], "", self.fill(1))
        self.assertEqual(len(staging._free), 3)
        self.agent.start()
        until("the agent", lambda: staging._client.connected)
        staging.store(0, "", ["a"], "", self.fill(5))
        staging.settle(10)
        with staging.load(0, "", ["a"], 5000) as loaded:
            self.assertEqual(int(loaded[0][0]), 5)


if __name__ == "__main__":
    unittest.main()

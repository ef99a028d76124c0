"""KvtierTier on the base class of the vLLM that is installed, with real shared-memory rows, jobs made by hand and a real agent."""

from __future__ import annotations

import os
import time
import unittest
import uuid

from kvtier.client import NOTHING
from tests.support import AgentCase, needs_agent, until

try:
    import numpy as np
    from vllm.v1.kv_offload.base import LookupResult, OffloadingKVEventsConfig, ReqContext, ScheduleEndContext, make_offload_key
    from vllm.v1.kv_offload.config import (
        OffloadingCacheConfig,
        OffloadingConfig,
        OffloadingGroupConfig,
        OffloadingModelConfig,
        OffloadingParallelConfig,
    )
    from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
    from vllm.v1.kv_offload.tiering.base import TransferJob
    from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory
    from vllm.v1.kv_offload.tiering.manager import CPUPrimaryTierOffloadingManager, TieringOffloadingManager

    MISSING = ""
except ImportError as problem:
    MISSING = str(problem)

ROW = 64 * 1024
STEP = None if MISSING else ScheduleEndContext((), ())


class Spec:
    """What a tier reads of the real spec."""

    def __init__(self, engine: str, region: SharedOffloadRegion | None, **model: str) -> None:
        self._scheduler_mmap = region
        self.blocks_per_chunk = 1
        self.kv_events_config = OffloadingKVEventsConfig(enable_kv_cache_events=True, self_describing_kv_events=False)
        self.config = OffloadingConfig(
            groups=(OffloadingGroupConfig(16, ("l0",), 0),),
            worker_kv_bytes_per_block=ROW,
            enable_kv_cache_events=True,
            extra_config={},
            engine_id=engine,
            model=OffloadingModelConfig(model.get("name", "m"), model.get("dtype", "bfloat16")),
            cache=OffloadingCacheConfig(16, 1),
            parallel=OffloadingParallelConfig(0, 1, 1, 1, 1, 1, 0, 1, None, False),
        )


class Engine:
    """The rows of one engine, and its tier."""

    def __init__(self, case: unittest.TestCase, socket: str, rows: int = 16, **options: object) -> None:
        self.name = f"kvtier-{uuid.uuid4().hex}"
        self.rows = SharedOffloadRegion(self.name, rows, None, ROW, ROW)
        case.addCleanup(self.rows.cleanup)
        self.spec = Spec(self.name, self.rows if options.pop("opened", True) else None, **options.pop("model", {}))  # type: ignore[arg-type]
        view = self.rows.create_kv_memoryview()
        self.view = np.asarray(view)
        config = {"type": "KvtierTier", "module_path": "kvtier.vllm_tier", "socket": socket, "enable_kv_events": True, "locality": "LOCAL"}
        self.tier = SecondaryTierFactory.create_secondary_tier({**config, "lookup_ms": 1000, **options}, view, self.spec)
        self.jobs = 0

        def end() -> None:
            self.tier.shutdown()
            del self.view

        case.addCleanup(end)

    def job(self, keys: list[bytes], rows: list[int], is_load: bool, req: str = "r") -> int:
        self.jobs += 1
        job = TransferJob(self.jobs, keys, np.array(rows, dtype=np.int32), is_load, ReqContext(req))
        (self.tier.submit_load if is_load else self.tier.submit_store)(job)
        return self.jobs

    def finished(self) -> list:
        results: list = []

        def collect() -> bool:
            results.extend(self.tier.get_finished_jobs())
            return not self.tier.has_pending_work()

        until("the end of all jobs", collect)
        return results

    def look(self, keys: list[bytes], req: str = "r") -> list[LookupResult]:
        """As the scheduler does: once a step, until there is an answer."""
        context = ReqContext(req)
        answers: list[LookupResult] = []

        def ask() -> bool:
            answers[:] = [self.tier.lookup(key, context) for key in keys]
            self.tier.on_schedule_end(STEP)
            return LookupResult.RETRY not in answers

        until("an answer", ask)
        return answers


def keys_of(count: int) -> list[bytes]:
    return [make_offload_key(os.urandom(32), 0) for _ in range(count)]


@unittest.skipIf(MISSING, f"no vLLM with tiers: {MISSING}")
@needs_agent
class TestTier(AgentCase):
    def test_rows_come_back_as_they_were(self) -> None:
        engine = Engine(self, self.agent.socket)
        keys = keys_of(8)
        engine.view[:8] = np.frombuffer(os.urandom(8 * ROW), dtype=np.int8).reshape(8, ROW)
        engine.job(keys, list(range(8)), is_load=False)
        [stored] = engine.finished()
        self.assertTrue(stored.success)
        self.assertEqual(set(engine.look([*keys, *keys_of(1)])[:8]), {LookupResult.HIT})
        # Rows in another order, as an allocator gives them.
        rows = [15, 9, 12, 10, 8, 14, 13, 11]
        engine.job(keys, rows, is_load=True)
        [loaded] = engine.finished()
        self.assertTrue(loaded.success)
        self.assertEqual(loaded.transfer_bytes, 8 * ROW)
        self.assertTrue((engine.view[rows] == engine.view[:8]).all())

    def test_the_path_does_where_the_spec_has_no_descriptor(self) -> None:
        engine = Engine(self, self.agent.socket, opened=False)
        keys = keys_of(1)
        engine.view[0] = 7
        engine.job(keys, [0], is_load=False)
        engine.finished()
        engine.job(keys, [3], is_load=True)
        self.assertTrue(engine.finished()[0].success)
        self.assertTrue((engine.view[3] == 7).all())

    def test_two_engines_share(self) -> None:
        one, two = Engine(self, self.agent.socket), Engine(self, self.agent.socket)
        keys = keys_of(2)
        one.view[:2] = np.frombuffer(os.urandom(2 * ROW), dtype=np.int8).reshape(2, ROW)
        one.job(keys, [0, 1], is_load=False)
        one.finished()
        self.assertEqual(two.look(keys), [LookupResult.HIT] * 2)
        two.job(keys, [4, 5], is_load=True)
        two.finished()
        self.assertTrue((two.view[4:6] == one.view[:2]).all())

    def test_engines_of_another_layout_share_nothing(self) -> None:
        one = Engine(self, self.agent.socket)
        keys = keys_of(1)
        one.job(keys, [0], is_load=False)
        one.finished()
        for other in ({"model": {"name": "n"}}, {"model": {"dtype": "float16"}}, {"namespace": "team"}, {"weights_version": "2"}):
            self.assertEqual(Engine(self, self.agent.socket, **other).look(keys), [LookupResult.MISS], other)

    def test_a_failed_load_is_a_miss_from_then_on(self) -> None:
        engine = Engine(self, self.agent.socket)
        keys = keys_of(3)
        engine.job(keys, [0, 1, 2], is_load=False)
        engine.finished()
        self.assertEqual(engine.look(keys), [LookupResult.HIT] * 3)
        gone = keys[1]
        engine.tier._client.invalidate({"selector": {"model": "m"}})
        engine.job([keys[0], keys[2]], [0, 2], is_load=False)
        engine.finished()
        engine.job(keys, [5, 6, 7], is_load=True)
        [result] = engine.finished()
        self.assertFalse(result.success)
        self.assertEqual(set(result.successful_keys), {keys[0], keys[2]})
        self.assertEqual(engine.look([gone]), [LookupResult.MISS])
        self.assertEqual(engine.look([keys[0]]), [LookupResult.HIT])

    def test_a_cancelled_request_leaves_nothing_behind(self) -> None:
        engine = Engine(self, self.agent.socket)
        keys = keys_of(4)
        engine.job(keys, [0, 1, 2, 3], is_load=False)
        engine.finished()
        context = ReqContext("gone")
        engine.tier.on_new_request(context)
        for key in keys:
            self.assertEqual(engine.tier.lookup(key, context), LookupResult.RETRY)
        engine.tier.on_schedule_end(STEP)
        job = engine.job(keys, [8, 9, 10, 11], is_load=True, req="gone")
        engine.tier.on_request_finished(context)
        self.assertEqual([result.job_id for result in engine.finished()], [job])
        until("the end of lookups", lambda: not (engine.tier.on_schedule_end(STEP) or engine.tier._lookups._lookup_state))
        self.assertEqual(engine.tier._asked, {})

    def test_drain(self) -> None:
        engine = Engine(self, self.agent.socket)
        keys = keys_of(16)
        for _ in range(5):
            engine.job(keys, list(range(16)), is_load=False)
        engine.tier.drain_jobs()
        self.assertEqual(len(list(engine.tier.get_finished_jobs())), 5)
        engine.tier.drain_jobs()

    def test_killed_under_jobs_and_back(self) -> None:
        engine = Engine(self, self.agent.socket)
        keys = keys_of(16)
        engine.job(keys, list(range(16)), is_load=False)
        engine.finished()
        for _ in range(10):
            engine.job(keys, list(range(16)), is_load=True)
        self.agent.kill()
        started = time.monotonic()
        results = engine.finished()
        self.assertLess(time.monotonic() - started, 5)
        self.assertEqual(len(results), 10)
        until("the loss", lambda: not engine.tier._client.connected)
        self.assertEqual(engine.look(keys_of(1)), [LookupResult.MISS])
        started = time.monotonic()
        engine.job(keys, list(range(16)), is_load=True)
        engine.job(keys, list(range(16)), is_load=False)
        self.assertLess(time.monotonic() - started, 0.05)
        self.assertEqual([result.success for result in engine.finished()], [False, False])
        self.agent.start()
        until("the agent", lambda: engine.tier._client.connected)
        engine.job(keys, list(range(16)), is_load=False)
        self.assertTrue(engine.finished()[0].success)
        self.assertEqual(engine.look(keys, "again"), [LookupResult.HIT] * 16)

    def test_hung_keeps_the_scheduler_not_and_the_rows(self) -> None:
        engine = Engine(self, self.agent.socket, lookup_ms=20)
        keys = keys_of(4)
        engine.job(keys, [0, 1, 2, 3], is_load=False)
        engine.finished()
        with self.agent.hung():
            started = time.monotonic()
            job = engine.job(keys, [4, 5, 6, 7], is_load=True)
            context = ReqContext("q")
            engine.tier.lookup(keys[0], context)
            engine.tier.on_schedule_end(STEP)
            engine.tier.touch(keys, context)
            self.assertLess(time.monotonic() - started, 0.05)
            self.assertEqual(engine.look([keys[0]], "q"), [LookupResult.MISS])
            # It may write there when it goes on: the rows are not given back.
            self.assertEqual(list(engine.tier.get_finished_jobs()), [])
        self.assertEqual([result.job_id for result in engine.finished()], [job])

    def test_events_of_what_is_stored_and_removed(self) -> None:
        engine = Engine(self, self.agent.socket)
        until("the stream of events", lambda: engine.tier._stream.connected)
        keys = keys_of(3)
        engine.job(keys, [0, 1, 2], is_load=False)
        engine.finished()
        [stored] = engine.tier.take_events()
        self.assertEqual((stored.keys, stored.removed, stored.locality.value), (keys, False, "LOCAL"))
        engine.tier._client.invalidate({"selector": {"model": "m"}})
        removed: list[bytes] = []

        def taken() -> bool:
            for event in engine.tier.take_events():
                self.assertTrue(event.removed)
                removed.extend(event.keys)
            return len(removed) == 3

        until("three removals", taken)
        self.assertEqual(set(removed), set(keys))

    def test_a_small_primary_tier_is_told(self) -> None:
        engine = Engine(self, self.agent.socket, rows=4)
        keys = keys_of(6)
        for first in (0, 3):
            engine.job(keys[first : first + 3], [0, 1, 2], is_load=False)
            engine.finished()
        with self.assertLogs("kvtier", "WARNING") as logs:
            engine.look(keys)
        self.assertEqual(len(logs.output), 1)
        self.assertIn("cpu_bytes_to_use", logs.output[0])

    def test_under_vllms_own_manager(self) -> None:
        """Stored through the CPU tier, evicted there, promoted again: all of it by vLLM's code."""
        engine = Engine(self, self.agent.socket, rows=4)
        primary = CPUPrimaryTierOffloadingManager(num_chunks=4, mmap_region=engine.rows)
        manager = TieringOffloadingManager(primary, [engine.tier])
        bytes_of: dict[bytes, object] = {}
        for turn in range(3):
            context = ReqContext(f"s{turn}")
            manager.on_new_request(context)
            keys = keys_of(4)

            def prepared(keys: list[bytes] = keys, context: ReqContext = context):  # noqa: ANN202
                manager.on_schedule_end(STEP)
                return manager.prepare_store(keys, context)

            spec = None

            def has_room() -> bool:
                nonlocal spec
                spec = prepared()
                return spec is not None

            until("room", has_room)
            for key, row in zip(spec.keys_to_store, spec.store_spec.chunk_ids, strict=True):
                engine.view[row] = np.frombuffer(os.urandom(ROW), dtype=np.int8)
                bytes_of[key] = engine.view[row].copy()
            manager.complete_store(keys, context, True)
            manager.on_request_finished(context)
            until("the cascade", lambda: not (manager.on_schedule_end(STEP) or manager._maybe_process_finished_jobs() or manager._jobs))
        first = list(bytes_of)[:4]
        context = ReqContext("l")
        manager.on_new_request(context)

        def hit() -> bool:
            found = [manager.lookup(key, context) for key in first]
            manager.on_schedule_end(STEP)
            return found == [LookupResult.HIT] * 4

        until("the promotion", hit)
        loaded = manager.prepare_load(first, context)
        for key, row in zip(first, loaded.chunk_ids, strict=True):
            self.assertTrue((engine.view[row] == bytes_of[key]).all())
        manager.complete_load(first, context)

    def test_no_rows_no_tier(self) -> None:
        engine = Engine(self, self.agent.socket)
        from kvtier.vllm_tier import KvtierTier

        with self.assertRaisesRegex(ValueError, "TieringOffloadingSpec"):
            KvtierTier(Spec("nobody", None), engine.rows.create_kv_memoryview(), "t", socket=self.agent.socket)

    def test_an_agent_that_was_never_there(self) -> None:
        engine = Engine(self, "/nonexistent/agent.sock")
        keys = keys_of(2)
        self.assertEqual(engine.tier._client.lookup(engine.tier._namespace, [b"k"]), NOTHING)
        self.assertEqual(engine.look(keys), [LookupResult.MISS] * 2)
        engine.job(keys, [0, 1], is_load=True)
        self.assertFalse(engine.finished()[0].success)


if __name__ == "__main__":
    unittest.main()

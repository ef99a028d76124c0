"""KvtierHiCache with a host pool of SGLang's shape and a real agent. SGLang is not installed here: its base class is one of structure alone."""

from __future__ import annotations

import ctypes
import os
import unittest
from types import SimpleNamespace as Stub

from kvtier.sglang_backend import KvtierHiCache
from tests.support import AgentCase, needs_agent, until

PAGE, PAGES = 32 * 1024, 16


class Pool:
    """Pages of two parts, K and V, in memory that only this process has. Indices are of tokens, 4 in a page."""

    dtype, page_size, layout, layer_num = "bfloat16", 4, "page_first", 2

    def __init__(self) -> None:
        self.memory = ctypes.create_string_buffer(2 * PAGE * PAGES)

    def get_page_buffer_meta(self, indices: list[int]) -> tuple[list[int], list[int]]:
        base = ctypes.addressof(self.memory)
        pages = [index // 4 for index in indices[::4]]
        return [base + (2 * page + part) * PAGE for page in pages for part in (0, 1)], [PAGE] * (2 * len(pages))

    def page(self, number: int) -> bytes:
        return self.memory.raw[2 * PAGE * number : 2 * PAGE * (number + 1)]

    def fill(self, number: int) -> bytes:
        data = os.urandom(2 * PAGE)
        ctypes.memmove(ctypes.addressof(self.memory) + 2 * PAGE * number, data, len(data))
        return data


def indices(*pages: int) -> list[int]:
    return [4 * page + token for page in pages for token in range(4)]


@needs_agent
class TestHiCache(AgentCase):
    def backend(self, pool: Pool | None = None, **config: object) -> KvtierHiCache:
        extra = {"socket": self.agent.socket, "staging_bytes": 8 * PAGE, "timeout_ms": 500, **config.pop("extra", {})}  # type: ignore[dict-item]
        fields = {"tp_rank": 0, "tp_size": 1, "is_mla_model": False, "model_name": "m", "is_page_first_layout": True}
        made = KvtierHiCache(Stub(**{**fields, **config}, extra_config=extra), {})
        self.addCleanup(made.close)
        made.register_mem_pool_host(pool or Pool())
        ask = made._client.lookup
        made._client.lookup = lambda *a, **k: ask(*a, **{**k, "seconds": 2})
        return made

    def test_pages_come_back_as_they_were(self) -> None:
        pool = Pool()
        backend = self.backend(pool)
        keys = [f"{number:064x}" for number in range(6)]
        data = [pool.fill(number) for number in range(6)]
        self.assertEqual(backend.batch_set_v1(keys, indices(*range(6))), [True] * 6)
        self.assertEqual(backend.batch_exists([*keys, "no"]), 6)
        self.assertEqual(backend.batch_get_v1(keys, indices(9, 8, 12, 10, 11, 15)), [True] * 6)
        self.assertEqual([pool.page(number) for number in (9, 8, 12, 10, 11, 15)], data)

    def test_ranks_models_and_salts_share_nothing_and_mla_ranks_do(self) -> None:
        pool = Pool()
        keys = ["a" * 64]
        self.backend(pool).batch_set_v1(keys, indices(0))
        for other in (
            {"tp_rank": 1},
            {"tp_size": 2},
            {"pp_rank": 1},
            {"attn_cp_rank": 1},
            {"model_name": "n"},
            {"extra": {"salt": "s"}},
            {"extra": {"namespace": "s"}},
            {"extra": {"weights_version": "2"}},
        ):
            self.assertEqual(self.backend(pool, **other).batch_exists(keys), 0, other)
        self.assertEqual(self.backend(pool).batch_exists(keys), 1)
        self.backend(pool, is_mla_model=True, tp_rank=0, tp_size=2).batch_set_v1(keys, indices(0))
        self.assertEqual(self.backend(pool, is_mla_model=True, tp_rank=1, tp_size=2).batch_exists(keys), 1)

    def test_behind_a_gap_nothing_is_loaded_and_a_half_page_is_left_alone(self) -> None:
        pool = Pool()
        backend = self.backend(pool)
        pool.fill(0)
        backend.batch_set_v1(["a", "c"], indices(0, 1))
        before = pool.page(9)
        self.assertEqual(backend.batch_get_v1(["a", "b"], indices(8, 9)), [True, False])
        self.assertEqual(pool.page(9), before)

    def test_never_none(self) -> None:
        pool = Pool()
        backend = self.backend(pool)
        keys = ["a", "b"]
        with self.assertLogs("kvtier", "ERROR"):
            pool.get_page_buffer_meta = lambda _: (_ for _ in ()).throw(RuntimeError("no"))  # type: ignore[method-assign]
            self.assertEqual(backend.batch_get_v1(keys, indices(0, 1)), [False, False])
            pool.get_page_buffer_meta = lambda _: ([1, 2, 3], [1, 2, 3])  # type: ignore[method-assign]
            self.assertEqual(backend.batch_set_v1(keys, indices(0, 1)), [False, False])
        del pool.get_page_buffer_meta
        self.agent.kill()
        self.assertEqual(backend.batch_get_v1(keys, indices(0, 1)), [False, False])
        self.assertEqual(backend.batch_set_v1(keys, indices(0, 1)), [False, False])
        self.assertEqual(backend.batch_exists(keys), 0)
        self.agent.start()
        until("the agent", lambda: backend._client.connected)
        self.assertEqual(backend.batch_set_v1(keys, indices(0, 1)), [True, True])

    def test_hung(self) -> None:
        pool = Pool()
        backend = self.backend(pool)
        data = pool.fill(0)
        backend.batch_set_v1(["a"], indices(0))
        with self.agent.hung(), self.assertLogs("kvtier", "WARNING"):
            self.assertEqual(backend.batch_get_v1(["a"], indices(1)), [False])
        until("an answer", lambda: backend.batch_get_v1(["a"], indices(1)) == [True])
        self.assertEqual(pool.page(1), data)

    def test_clear(self) -> None:
        backend = self.backend()
        backend.batch_set_v1(["a"], indices(0))
        backend.clear()
        self.assertEqual(backend.batch_exists(["a"]), 0)


if __name__ == "__main__":
    unittest.main()

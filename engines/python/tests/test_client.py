"""The client with a real agent, and with servers that answer what no agent would."""

from __future__ import annotations

import os
import struct
import tempfile
import threading
import time
import unittest

from kvtier import wire
from kvtier.client import NOTHING, Client, Found, Refused, find_socket
from kvtier.region import FileRegion, Region
from tests.support import AgentCase, Fake, good_hello, namespace, needs_agent, refusal, until

SIZE = 64 * 1024
#: Of a call that must not wait for the agent, on a machine that does other things as well: bound 5 ms, and what a scheduler may take of it.
AT_ONCE_SECONDS = 0.005
SLACK_SECONDS = 0.045


def keys_of(count: int, prefix: str = "k") -> list[bytes]:
    return [f"{prefix}{index}".encode() for index in range(count)]


def spans_of(count: int, first: int = 0) -> list[wire.Span]:
    return [((first + index) * SIZE, SIZE) for index in range(count)]


def fastest(call) -> float:  # noqa: ANN001
    """Seconds of the quickest of several calls: what the code takes, without what the machine does meanwhile."""
    times = []
    for _ in range(5):
        started = time.monotonic()
        call()
        times.append(time.monotonic() - started)
    return min(times)


@needs_agent
class TestAgent(AgentCase):
    def region(self, chunks: int) -> Region:
        region = Region(chunks * SIZE)
        self.addCleanup(region.close)
        return region

    def test_bytes_come_back_as_they_were(self) -> None:
        client, region = self.client(), self.region(16)
        data = os.urandom(8 * SIZE)
        region.view[: 8 * SIZE] = data
        self.assertEqual(client.store(namespace(), region, keys_of(8), spans_of(8)).result(10), bytes(8))
        self.assertEqual(client.store(namespace(), region, keys_of(8), spans_of(8)).result(10), bytes([1] * 8))
        self.assertEqual(client.load(namespace(), region, keys_of(8), spans_of(8, 8)).result(10), bytes(8))
        self.assertEqual(bytes(region.view[8 * SIZE :]), data)
        self.assertTrue(client.ping())
        self.assertIn("tiers", client.stats())

    def test_lookups_by_prefix_and_by_each(self) -> None:
        client, region = self.client(), self.region(3)
        wanted = [b"k0", b"k1", b"no", b"k2"]
        client.store(namespace(), region, keys_of(3), spans_of(3)).result(10)
        self.assertEqual(client.lookup(namespace(), wanted, seconds=5).prefix, 2)
        each = client.lookup(namespace(), wanted, prefix=False, peek=True, seconds=5)
        self.assertEqual([tier != wire.MISSING for tier in each.tiers], [True, True, False, True])
        self.assertEqual(each.sizes, (SIZE, SIZE, 0, SIZE))
        self.assertEqual(client.lookup(namespace(rank="1"), wanted, seconds=5).prefix, 0)
        self.assertEqual(client.lookup(namespace(salt="s"), wanted, seconds=5).prefix, 0)

    def test_outcomes_are_per_key(self) -> None:
        client, region = self.client(), self.region(4)
        client.store(namespace(), region, keys_of(1), spans_of(1)).result(10)
        loaded = client.load(namespace(), region, [b"k0", b"no"], spans_of(2, 2)).result(10)
        self.assertEqual(loaded, bytes([0, 1]))
        self.assertEqual(client.load(namespace(), region, [b"k0"], [(0, SIZE // 2)]).result(10), bytes([2]))
        outside = client.load(namespace(), region, [b"k0"], [(4 * SIZE, SIZE)]).result(10)
        self.assertEqual(outside, bytes([5]))

    def test_more_keys_than_one_request_holds(self) -> None:
        client, region = self.client(), self.region(1)
        keys = keys_of(5000)
        stored = client.store(namespace(), region, keys, [(16 * index % SIZE, 16) for index in range(5000)]).result(30)
        self.assertEqual(set(stored), {0})
        found = client.lookup(namespace(), keys, seconds=5)
        self.assertEqual(found.prefix, 5000)
        self.assertEqual(len(client.load(namespace(), region, keys, [(0, 16)] * 5000).result(30)), 5000)

    def test_a_key_that_is_none_is_the_callers_mistake(self) -> None:
        client = self.client()
        with self.assertRaises(ValueError):
            client.lookup(namespace(), [b"a@b"], seconds=5)
        self.assertEqual(client.lookup(namespace(), [b"ab"], seconds=5).prefix, 0)

    def test_more_namespaces_than_a_connection_holds(self) -> None:
        client, region = self.client(), self.region(1)
        for number in range(300):
            salted = namespace(salt=f"s{number}")
            until("a lookup", lambda salted=salted: client.lookup(salted, [b"k"], prefix=False, seconds=2) != NOTHING)

            def stored(salted=salted) -> bool:  # noqa: ANN001
                return client.store(salted, region, [b"k"], spans_of(1)).result(10) in (b"\0", b"\1")

            until("a store", stored)

    def test_a_file_of_somebody_elses(self) -> None:
        client, region = self.client(), self.region(2)
        region.view[:SIZE] = os.urandom(SIZE)
        client.store(namespace(), region, keys_of(1), spans_of(1)).result(10)
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
            file.truncate(2 * SIZE)
            rows = FileRegion(file.name)
            self.assertEqual(client.load(namespace(), rows, keys_of(1), spans_of(1, 1)).result(10), b"\0")
            file.seek(SIZE)
            self.assertEqual(file.read(SIZE), bytes(region.view[:SIZE]))
            client.detach(rows)
            rows.close()

    def test_regions_are_told_apart_after_one_is_closed(self) -> None:
        client = self.client()
        for turn in range(20):
            region = Region(SIZE)
            region.view[:] = bytes([turn]) * SIZE
            key = [f"turn{turn}".encode()]
            self.assertEqual(client.store(namespace(), region, key, spans_of(1)).result(10), b"\0")
            region.view[:] = bytes(SIZE)
            self.assertEqual(client.load(namespace(), region, key, spans_of(1)).result(10), b"\0")
            self.assertEqual(region.view[0], turn)
            client.detach(region)
            region.close()
            del region

    def test_two_threads(self) -> None:
        client = self.client()
        problems: list[str] = []

        def work(name: str) -> None:
            region = Region(8 * SIZE)
            for turn in range(15):
                keys = keys_of(4, f"{name}-{turn}-")
                data = os.urandom(4 * SIZE)
                region.view[: 4 * SIZE] = data
                client.store(namespace(), region, keys, spans_of(4)).result(10)
                if client.lookup(namespace(), keys, seconds=5).prefix != 4:
                    problems.append(f"{keys} are missing")
                client.load(namespace(), region, keys, spans_of(4, 4)).result(10)
                if bytes(region.view[4 * SIZE :]) != data:
                    problems.append(f"{keys} have other bytes")
            client.detach(region)

        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            self.assertFalse(thread.is_alive())
        self.assertEqual(problems, [])

    def test_killed_in_the_middle_of_jobs(self) -> None:
        client, region = self.client(), self.region(256)
        client.store(namespace(), region, keys_of(128), spans_of(128)).result(20)
        jobs = [client.load(namespace(), region, keys_of(128), spans_of(128, 128)) for _ in range(20)]
        jobs += [client.store(namespace(), region, keys_of(128, f"s{turn}-"), spans_of(128)) for turn in range(20)]
        quiet = client.load(namespace(), region, keys_of(128), spans_of(128, 128), until_quiet=True)
        self.agent.kill()
        for job in [*jobs, quiet]:
            self.assertEqual(len(job.result(5)), 128)
        self.assertEqual(quiet.result(), bytes([5] * 128))
        self.assertEqual(client.load(namespace(), region, keys_of(1), spans_of(1)).result(1), bytes([5]))
        self.assertEqual(client.store(namespace(), region, keys_of(1), spans_of(1)).result(1), bytes([9]))

    def test_away_and_back(self) -> None:
        client, region = self.client(), self.region(2)
        region.view[:SIZE] = os.urandom(SIZE)
        client.store(namespace(), region, keys_of(1), spans_of(1)).result(10)
        before = client.instance
        self.agent.kill()
        until("the loss of the agent", lambda: not client.connected)
        self.assertLess(fastest(lambda: self.assertEqual(client.lookup(namespace(), keys_of(1)), NOTHING)), AT_ONCE_SECONDS)
        self.assertLess(fastest(lambda: client.load(namespace(), region, keys_of(1), spans_of(1)).result(1)), AT_ONCE_SECONDS)
        self.agent.start()
        until("the agent", lambda: client.connected)
        self.assertNotEqual(client.instance, before)
        self.assertEqual(client.lookup(namespace(), keys_of(1), seconds=5).prefix, 1)
        self.assertEqual(client.load(namespace(), region, keys_of(1), spans_of(1, 1)).result(10), b"\0")
        self.assertEqual(bytes(region.view[SIZE:]), bytes(region.view[:SIZE]))

    def test_hung_and_going_on(self) -> None:
        client, region = self.client(), self.region(1)
        client.store(namespace(), region, keys_of(1), spans_of(1)).result(10)
        with self.agent.hung():
            times = []
            for _ in range(20):
                started = time.monotonic()
                self.assertEqual(client.lookup(namespace(), keys_of(1)), NOTHING)
                times.append(time.monotonic() - started)
            self.assertLess(max(times), AT_ONCE_SECONDS + SLACK_SECONDS)
            # More than the socket's buffers hold: handing in never waits.
            wide = [f"{'w' * 500}{index}".encode() for index in range(4000)]
            started = time.monotonic()
            jobs = [client.store(namespace(), region, wide, [(0, 16)] * 4000) for _ in range(5)]
            self.assertLess(time.monotonic() - started, 1.0)
            self.assertFalse(any(job.done() for job in jobs))
        for job in jobs:
            self.assertEqual(len(job.result(30)), 4000)
        until("lookups", lambda: client.lookup(namespace(), keys_of(1), seconds=1).prefix == 1)

    def test_lookups_of_others_do_not_wait_longer_while_it_hangs(self) -> None:
        client = self.client()
        with self.agent.hung():
            times: list[float] = []

            def ask() -> None:
                started = time.monotonic()
                client.lookup(namespace(), keys_of(1))
                times.append(time.monotonic() - started)

            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.assertLess(max(times), 2 * AT_ONCE_SECONDS + SLACK_SECONDS)

    def test_closing_ends_what_is_under_way(self) -> None:
        client, region = self.client(), self.region(1)
        with self.agent.hung():
            job = client.load(namespace(), region, keys_of(1), spans_of(1), until_quiet=True)
            client.close()
            self.assertEqual(job.result(5), bytes([5]))
        self.assertEqual(client.lookup(namespace(), keys_of(1)), NOTHING)


class TestFake(unittest.TestCase):
    """What a server may say, and what comes of it: nothing is found, nothing hangs, nothing raises."""

    def fake(self, answer, hello=None) -> tuple[Fake, Client]:  # noqa: ANN001
        fake = Fake(answer, hello)
        self.addCleanup(fake.close)
        client = Client(fake.socket)
        self.addCleanup(client.close)
        return fake, client

    def fails_open(self, answer) -> None:  # noqa: ANN001
        _, client = self.fake(answer)
        self.assertTrue(client.connected)
        region = Region(SIZE)
        self.addCleanup(region.close)
        self.assertEqual(client.lookup(namespace(), keys_of(2), seconds=0.5), NOTHING)
        self.assertEqual(client.load(namespace(), region, keys_of(2), [(0, 16)] * 2).result(5), bytes([5, 5]))
        until("the connection again", lambda: client.connected)
        self.assertEqual(client.store(namespace(), region, keys_of(1), [(0, 16)]).result(5), bytes([9]))

    def test_garbage(self) -> None:
        self.fails_open(lambda op, tag, body: os.urandom(64))

    def test_closes(self) -> None:
        self.fails_open(lambda op, tag, body: None)

    def test_truncated_frame(self) -> None:
        state = {"sent": 0}

        def answer(op: int, tag: int, body: bytes) -> bytes | None:
            state["sent"] += 1
            return wire.frame(op, tag, b"12345678")[:20] if state["sent"] % 2 else None

        _, client = self.fake(answer)
        self.assertEqual(client.lookup(namespace(), keys_of(1), seconds=0.2), NOTHING)

    def test_body_too_short(self) -> None:
        self.fails_open(lambda op, tag, body: wire.frame(op, tag, b"\1"))

    def test_another_tag(self) -> None:
        self.fails_open(lambda op, tag, body: wire.frame(op, tag + 1, struct.pack("<I", 0)))

    def test_refusals(self) -> None:
        self.fails_open(lambda op, tag, body: refusal(op, tag, 7, "draining"))

    def test_more_tiers_than_keys(self) -> None:
        def answer(op: int, tag: int, body: bytes) -> bytes:
            found = wire.blob(b"\2\2\2") + struct.pack("<I3I", 3, 1, 1, 1)
            return wire.frame(op, tag, found if op == wire.LOOKUP else struct.pack("<I", 0))

        _, client = self.fake(answer)
        self.assertEqual(client.lookup(namespace(), keys_of(2), seconds=0.5), NOTHING)

    def test_outcomes_of_another_length(self) -> None:
        def answer(op: int, tag: int, body: bytes) -> bytes:
            if op == wire.ATTACH:
                return wire.frame(wire.CONTINUE, tag, b"") + wire.frame(op, tag, struct.pack("<IQB", 1, SIZE, 1))
            return wire.frame(op, tag, wire.blob(b"\0") if op == wire.LOAD else struct.pack("<I", 0))

        _, client = self.fake(answer)
        region = Region(SIZE)
        self.addCleanup(region.close)
        self.assertEqual(client.load(namespace(), region, keys_of(3), [(0, 16)] * 3).result(5), bytes([5, 5, 5]))

    def test_a_reply_that_trickles_keeps_nobody(self) -> None:
        def answer(op: int, tag: int, body: bytes) -> bytes:
            time.sleep(0.02)
            return b"\0"

        _, client = self.fake(answer)
        started = time.monotonic()
        self.assertEqual(client.lookup(namespace(), keys_of(1), seconds=0.05), NOTHING)
        self.assertLess(time.monotonic() - started, 0.05 + SLACK_SECONDS)

    def test_another_version(self) -> None:
        with self.assertLogs("kvtier", "ERROR") as logs:
            fake, client = self.fake(lambda *_: None, lambda tag: refusal(wire.HELLO, tag, 3, "the client speaks version 1, this agent 2"))
            self.assertFalse(client.connected)
            self.assertEqual(client.lookup(namespace(), keys_of(1)), NOTHING)
            time.sleep(0.3)
        self.assertEqual(len(logs.output), 1, "said once, and not at each attempt")
        self.assertIn("version", logs.output[0])
        with self.assertRaises(ConnectionError):
            client.stats()

    def test_a_hello_of_another_version(self) -> None:
        def hello(tag: int) -> bytes:
            frame = bytearray(good_hello(tag))
            frame[wire.HEADER.size] = 9
            return bytes(frame)

        _, client = self.fake(lambda *_: None, hello)
        self.assertFalse(client.connected)

    def test_nobody_there(self) -> None:
        client = Client("/nonexistent/agent.sock")
        self.addCleanup(client.close)
        self.assertFalse(client.connected)
        self.assertLess(fastest(lambda: client.lookup(namespace(), keys_of(1))), AT_ONCE_SECONDS)

    def test_refused_is_an_exception_of_operators_alone(self) -> None:
        _, client = self.fake(lambda op, tag, body: refusal(op, tag, 4, "no"))
        with self.assertRaises(Refused):
            client.stats()


class TestSmall(unittest.TestCase):
    def test_prefix(self) -> None:
        self.assertEqual(Found(b"\2\3\0\2", (1, 1, 0, 1)).prefix, 2)
        self.assertEqual(Found(b"\2\4", (1, 1)).prefix, 1)

    def test_find_socket(self) -> None:
        self.assertEqual(find_socket("/a"), "/a")
        with tempfile.TemporaryDirectory() as folder:
            self.assertEqual(find_socket(data_dir=folder), f"{folder}/agent.sock")
            with open(f"{folder}/agent.json", "w") as file:
                file.write('{"doors":{"socket":"/x/s"}}')
            self.assertEqual(find_socket(data_dir=folder), "/x/s")


if __name__ == "__main__":
    unittest.main()

"""Puts the real C++ client (lmcache.lmcache_redis.LMCacheRedisClient) against a scripted server.

Each case checks one rule that our RESP door relies on (docs: lmcache.md 1.b.3; findings: README.md here). A case
runs in a forked child with a time limit, because a desynchronised client blocks in recv for ever. Run it with the
environment of setup.sh:  "$KVTIER_E2E_VENV/bin/python" wire_rules.py [case...]
"""

import os
import select
import signal
import socket
import sys
import threading
import time
import traceback

os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")
os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")
import torch  # noqa: E402, F401  (lmcache_redis links libtorch)
from lmcache.lmcache_redis import LMCacheRedisClient  # noqa: E402

from fake_resp import FakeResp  # noqa: E402

HANG = "never completes"
KEPT = []  # Clients are never dropped: a dying one was seen to break its successor's sockets (README).
CASES = {}


def case(f):
    CASES[f.__name__] = f
    return f


class Client:
    """One call at a time; answers (ok, error, per key results), or HANG after two seconds."""

    def __init__(self, server: FakeResp, workers: int = 1, *auth: str):
        self.c = LMCacheRedisClient("127.0.0.1", server.port, workers, *auth)
        KEPT.append(self.c)

    def wait(self, future: int, seconds: float = 2.0):
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self.c.event_fd()], [], [], left)[0]:
                for done, ok, error, bools in self.c.drain_completions():
                    if done == future:
                        return ok, error, bools
        return HANG

    def set(self, *pairs):
        self.keep = [bytearray(v) for _, v in pairs]
        return self.wait(self.c.submit_batch_set([k for k, _ in pairs], [memoryview(b) for b in self.keep]))

    def get(self, *pairs):
        """pairs: (key, expected length). The buffers are left in self.keep."""
        self.keep = [bytearray(n) for _, n in pairs]
        return self.wait(self.c.submit_batch_get([k for k, _ in pairs], [memoryview(b) for b in self.keep]))

    def exists(self, *keys):
        return self.wait(self.c.submit_batch_exists(list(keys)))

    def delete(self, *keys):
        return self.wait(self.c.submit_batch_delete(list(keys)))


def once(command: bytes, reply: bytes, key: bytes | None = None):
    """A script that bends the first reply to `command` (for `key`) and answers everything else as usual."""
    state = {"left": 1}

    def script(_connection, args):
        if state["left"] and args[0] == command and key in (None, args[1]):
            state["left"] = 0
            return reply
        return None

    return script


def check(name: str, good: bool, detail=""):
    print(f"{'pass' if good else 'FAIL'}  {name}{f': {detail}' if detail != '' else ''}", flush=True)


def found(name: str, detail):
    print(f"found {name}: {detail}", flush=True)


def still_in_step(server: FakeResp, client: Client) -> bool:
    """True when a full round of commands on the same socket gives the right answers."""
    before = len(server.raw)
    return (
        client.set(("after", b"abcd"))[:1] == (True,)
        and client.exists("after", "absent")[2] == [True, False]
        and client.get(("after", 4))[2] == [True]
        and bytes(client.keep[0]) == b"abcd"
        and len(server.raw) == before
        and not server.closed
    )


@case
def exact_bytes():
    s = FakeResp()
    s.keep_raw = True
    c = Client(s)
    c.set(("m@01000100@0@00ff", b"12345678"))
    c.exists("m@01000100@0@00ff")
    c.get(("m@01000100@0@00ff", 8))
    c.delete("m@01000100@0@00ff")
    k = b"$17\r\nm@01000100@0@00ff\r\n"
    want = (b"*3\r\n$3\r\nSET\r\n" + k + b"$8\r\n12345678\r\n" + b"*2\r\n$6\r\nEXISTS\r\n" + k
            + b"*2\r\n$3\r\nGET\r\n" + k + b"*2\r\n$3\r\nDEL\r\n" + k)
    check("SET, EXISTS, GET and DEL are sent byte for byte as lmcache.md says, and nothing before them",
          bytes(s.raw[0]) == want, bytes(s.raw[0]) if bytes(s.raw[0]) != want else "")


@case
def auth():
    for args, want in ((("", "pw"), b"*2\r\n$4\r\nAUTH\r\n$2\r\npw\r\n"),
                       (("me", "pw"), b"*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$2\r\npw\r\n"),
                       (("me", ""), b"")):
        s = FakeResp()
        s.keep_raw = True
        c = Client(s, 1, *args)
        c.exists("k")
        got = bytes(s.raw[0]).split(b"*2\r\n$6\r\nEXISTS")[0]
        check(f"AUTH for user {args[0]!r} and password {args[1]!r} is {want!r}", got == want, got if got != want else "")
    s = FakeResp()
    s.script = once(b"AUTH", b"-WRONGPASS no\r\n")
    c = Client(s, 1, "", "pw")
    found("after a refused AUTH, the next EXISTS", c.exists("k"))
    found("connections seen, and closed", (len(s.raw), len(s.closed)))


@case
def set_refused_in_five_bytes():
    s = FakeResp()
    s.script = once(b"SET", b"-NO\r\n")
    c = Client(s)
    r = c.set(("a", b"xxxx"))
    check("-NO to SET fails that store", r != HANG and r[0] is False, r)
    check("-NO to SET leaves the socket in step", still_in_step(s, c))


@case
def set_refused_inside_a_tile():
    s = FakeResp()
    s.script = once(b"SET", b"-NO\r\n", b"b")
    c = Client(s)
    r = c.set(("a", b"xxxx"), ("b", b"xxxx"), ("c", b"xxxx"))
    check("-NO to the second SET of a tile fails the whole store", r != HANG and r[0] is False, r)
    found("keys sent of the tile a, b, c", [a[1].decode() for _, a in s.commands])
    check("the socket is in step after it", still_in_step(s, c))


@case
def set_refused_with_a_long_error():
    s = FakeResp()
    s.script = once(b"SET", b"-OOM command not allowed\r\n")
    c = Client(s)
    found("-OOM... to SET", c.set(("a", b"xxxx")))
    found("the next SET (answered +OK)", c.set(("b", b"xxxx")))
    found("the next EXISTS of a stored key", c.exists("b"))
    found("the next GET of a stored key", c.get(("b", 4)))


@case
def exists_and_del_refused_in_four_bytes():
    for command, call in ((b"EXISTS", "exists"), (b"DEL", "delete")):
        s = FakeResp()
        s.script = once(command, b"-E\r\n")
        c = Client(s)
        r = getattr(c, call)("a", "b")
        check(f"-E to {command.decode()} completes without a hit", r != HANG and (r[0] is False or not (r[2] or [False])[0]), r)
        found(f"keys sent after -E to the first {command.decode()} of two", [a[1].decode() for _, a in s.commands])
        check(f"-E to {command.decode()} leaves the socket in step", still_in_step(s, c))


@case
def get_missing_answered_with_null():
    """lmcache 0.5.6 reads exactly len("$<expected>\\r\\n") bytes of a GET reply, so $-1 fits two-digit lengths only."""
    for size in (4, 32, 4096, 4 << 20):
        s = FakeResp()
        s.store = {b"a": b"A" * size, b"c": b"C" * size}
        c = Client(s)
        found(f"GET of a, b, c with {size} bytes each where b is answered $-1", c.get(("a", size), ("b", size), ("c", size)))
        found("  keys asked for", [a[1].decode() for _, a in s.commands])
        found("  still in step after it", in_step_or_hang(s, c))


def miss(expected: int) -> bytes:
    """An error line exactly as long as the header that the client expects."""
    return b"-" + b"MISSING".ljust(len(str(expected)), b"_")[: len(str(expected))] + b"\r\n"


@case
def get_missing_answered_in_header_length():
    for size in (4, 32, 4096, 65536, 4 << 20, 32 << 20):
        s = FakeResp()
        s.store = {b"a": b"A" * size, b"c": b"C" * size}
        s.script = once(b"GET", miss(size), b"b")
        c = Client(s)
        r = c.get(("a", size), ("b", size), ("c", size))
        check(f"{miss(size)!r} to a GET of {size} bytes is a miss of that key only", r != HANG and r[2] == [True, False, True], r)
        check("  the hits around it are whole", bytes(c.keep[0]) == b"A" * size and bytes(c.keep[2]) == b"C" * size)
        check("  and the socket is in step", still_in_step(s, c))


@case
def get_refused_with_an_error():
    for line in (b"-ERR out of reach\r\n", b"-E\r\n"):
        s = FakeResp()
        s.script = once(b"GET", line)
        c = Client(s)
        found(f"GET of 4 bytes answered with an error line of {len(line)} bytes", c.get(("a", 4)))
        found("  still in step after it", in_step_or_hang(s, c))


def in_step_or_hang(s, c):
    try:
        return still_in_step(s, c)
    except TypeError:  # HANG is no tuple
        return HANG
    except Exception as error:  # noqa: BLE001  (a finding, not a failure)
        return repr(error)


@case
def get_null_of_resp3():
    s = FakeResp()
    s.script = once(b"GET", b"_\r\n")
    c = Client(s)
    found("GET answered with RESP3's null", c.get(("a", 4)))
    found("  still in step after it", in_step_or_hang(s, c))


@case
def get_longer():
    s = FakeResp()
    s.store[b"a"] = b"x" * 64
    c = Client(s)
    found("GET of 64 stored bytes into 32", c.get(("a", 32)))
    s.store[b"b"] = b"B" * 32
    found("  the next GET of a good key", c.get(("b", 32)))
    found("  still in step after it", in_step_or_hang(s, c))


@case
def get_shorter():
    s = FakeResp()
    s.store[b"a"] = b"x" * 16
    s.store[b"b"] = b"B" * 32
    c = Client(s)
    found("GET of 16 stored bytes into 32", c.get(("a", 32)))
    found("  the next GET of a good key", c.get(("b", 32)))
    found("  still in step after it", in_step_or_hang(s, c))


@case
def get_other_length_in_a_batch():
    s = FakeResp()
    s.store = {b"a": b"A" * 32, b"b": b"x" * 33, b"c": b"C" * 32, b"d": b"D" * 32}
    c = Client(s)
    r = c.get(("a", 32), ("b", 32), ("c", 32), ("d", 32))
    found("a batch of 32 byte reads where b has 33", r)
    found("  contents", [bytes(x[:4]) for x in c.keep])


@case
def get_poisoned_by_a_longer_value():
    """The dangerous one: a stored value of another length whose own bytes look like a reply of the expected length."""
    s = FakeResp()
    s.store[b"a"] = b"$10\r\nEVILEVILEV\r\n"
    s.store[b"b"] = b"GOODGOODGO"
    c = Client(s)
    found("GET into 10 bytes of a 17 byte value that holds a reply inside", c.get(("a", 10)))
    r = c.get(("b", 10))
    found("  the next GET of b, which is GOODGOODGO", (r, bytes(c.keep[0])))


@case
def replies_in_pieces():
    s = FakeResp()
    s.store[b"a"] = b"A" * 1000
    peers = []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump():
        peer, _ = listener.accept()
        up = socket.create_connection(("127.0.0.1", s.port))
        peers.extend((peer, up))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=lambda: [up.sendall(b) for b in iter(lambda: peer.recv(65536), b"")], daemon=True).start()
        while data := up.recv(65536):
            for i in range(len(data)):
                peer.sendall(data[i : i + 1])
                time.sleep(0.0002)

    threading.Thread(target=pump, daemon=True).start()
    port, s.port = s.port, listener.getsockname()[1]
    c = Client(s)
    s.port = port
    good = (c.set(("k", b"abcd"))[0] and c.exists("k")[2] == [True]
            and c.get(("a", 1000))[2] == [True] and bytes(c.keep[0]) == b"A" * 1000)
    check("replies that arrive one byte at a time are put together", good)


@case
def connection_closed():
    s = FakeResp()

    def script(_connection, args):
        if args[0] == b"GET":
            raise OSError("closing on purpose")
        return None

    s.script = script
    s.store[b"a"] = b"AAAA"
    c = Client(s)
    found("GET when the server closes the connection", c.get(("a", 4)))
    s.script = None
    found("the next GET", c.get(("a", 4)))
    found("the next EXISTS", c.exists("a"))
    check("the client does not connect again", len(s.raw) == 1, f"{len(s.raw)} connections")


@case
def one_of_two_connections_closed():
    s = FakeResp()
    s.script = lambda connection, args: (_ for _ in ()).throw(OSError("on purpose")) if connection == 0 and args[0] == b"EXISTS" else None
    s.store.update({b"%d" % i: b"AAAA" for i in range(8)})
    c = Client(s, 2)
    time.sleep(0.2)
    results = [c.exists(*[str(i) for i in range(8)]) for _ in range(4)]
    found("lookups of 8 stored keys over 2 connections, after one was closed", [r if r == HANG else (r[0], sum(r[2] or [])) for r in results])


@case
def no_server():
    gone = socket.create_server(("127.0.0.1", 0))
    port = gone.getsockname()[1]
    gone.close()
    s = type("S", (), {"port": port})
    try:
        c = Client(s, 2)
        found("EXISTS when nothing listens", c.exists("a"))
        found("GET when nothing listens", c.get(("a", 4)))
    except Exception as error:  # noqa: BLE001
        found("constructing the client when nothing listens", repr(error))


@case
def host_names():
    s = FakeResp()
    for host in ("127.0.0.1", "localhost"):
        try:
            c = Client.__new__(Client)
            c.c = LMCacheRedisClient(host, s.port, 1)
            KEPT.append(c.c)
            found(f"host {host!r}: EXISTS", c.exists("a"))
        except Exception as error:  # noqa: BLE001
            found(f"host {host!r}", repr(error))


@case
def tiles():
    for keys, workers in ((20, 8), (3, 8), (9, 8), (16, 4)):
        s = FakeResp()
        c = Client(s, workers)
        deadline = time.monotonic() + 2
        while len(s.raw) < workers and time.monotonic() < deadline:
            time.sleep(0.005)
        r = c.exists(*[f"{i:02d}" for i in range(keys)])
        by: dict[int, list[int]] = {}
        for connection, args in s.commands:
            by.setdefault(connection, []).append(int(args[1]))
        found(f"{keys} keys over {workers} workers ({len(s.raw)} connections)",
              "; ".join(f"c{n}: {' '.join(map(str, k))}" for n, k in sorted(by.items())) + f" -> {r if r == HANG else r[0]}")
        check(f"{keys} keys over {workers} workers: every key is asked once", sorted(k for n in by.values() for k in n) == list(range(keys)))


@case
def buffers_of_two_sizes():
    s = FakeResp()
    c = Client(s)
    try:
        r = c.set(("a", b"xxxx"), ("b", b"yyyyyyyy"))
    except Exception as error:  # noqa: BLE001
        r = repr(error)
    found("SET of a batch with buffers of 4 and 8 bytes", r)
    found("  what reached the server", {k.decode(): len(v) for k, v in s.store.items()})


@case
def overwrite_with_another_length():
    s = FakeResp()
    c = Client(s)
    c.set(("a", b"x" * 16))
    c.set(("a", b"y" * 32))
    r = c.get(("a", 32))
    check("a key set again with another length reads back with the new one", r != HANG and r[2] == [True] and bytes(c.keep[0]) == b"y" * 32, r)


def run(name: str) -> list[str]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        try:
            CASES[name]()
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            print(f"FAIL  {name} raised {sys.exc_info()[1]!r}", flush=True)
        sys.stdout.flush()
        os._exit(0)  # not close(): it joins threads that may sit in recv for ever
    os.close(write)
    lines, deadline = b"", time.monotonic() + 30
    while (left := deadline - time.monotonic()) > 0 and select.select([read], [], [], left)[0]:
        data = os.read(read, 65536)
        if not data:
            break
        lines += data
    else:
        lines += f"FAIL  {name} did not end in 30 s\n".encode()
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.waitpid(pid, 0)
    os.close(read)
    return lines.decode(errors="replace").splitlines()


def main() -> None:
    passed = failed = 0
    for name in sys.argv[1:] or CASES:
        print(f"-- {name}")
        for line in run(name):
            print(f"   {line}")
            passed += line.startswith("pass")
            failed += line.startswith("FAIL")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


main()

"""A scripted RESP server for looking at the real client: it records every command and lets a script bend the replies.

As a program it is a plain in-memory GET/SET/EXISTS/DEL server that logs one line per command
(seconds, connection, command, key, value length), to see what lmcache sends and in which order:

    fake_resp.py PORT [LOG [null|matched]]

With a third word the second GET finds its key gone although EXISTS said 1, as if it had been evicted in between, and is
answered $-1, or an error line as long as the header of a 32 MiB value (server.sh's chunks).
"""

import socket
import sys
import threading
import time


class FakeResp:
    def __init__(self, port: int = 0, log=None):
        self.store: dict[bytes, bytes] = {}
        self.commands: list[tuple[int, list[bytes]]] = []  # (connection number, arguments)
        self.raw: dict[int, bytearray] = {}  # all bytes of a connection, when keep_raw
        self.script = None  # function(connection, arguments) -> reply bytes, or None for the normal reply
        self.keep_raw = False
        self.closed: list[int] = []
        self._log, self._t0 = log, time.monotonic()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        number = 0
        while True:
            peer, _ = self._listener.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(peer, number), daemon=True).start()
            number += 1

    def _serve(self, peer: socket.socket, number: int) -> None:
        self.raw[number] = bytearray()
        stream = peer.makefile("rb", buffering=1 << 20)

        def take(line: bytes) -> bytes:
            if self.keep_raw:
                self.raw[number] += line
            return line

        try:
            while head := take(stream.readline()):
                assert head.startswith(b"*"), head[:80]
                args = []
                for _ in range(int(head[1:])):
                    length = int(take(stream.readline())[1:])
                    args.append(bytes(take(stream.read(length + 2))[:-2]))
                with self._lock:
                    self.commands.append((number, args[:2] if args[0] == b"SET" else args))
                    if self._log:
                        size = len(args[2]) if len(args) > 2 else 0
                        print(f"{time.monotonic() - self._t0:9.4f} c{number} {args[0].decode()} {args[1].decode()} {size}", file=self._log, flush=True)
                    reply = self.script(number, args) if self.script else None
                    if reply is None:
                        reply = self._answer(args)
                peer.sendall(reply)
        except (OSError, ValueError, AssertionError) as error:
            print(f"fake_resp: connection {number}: {error!r}", file=sys.stderr)
        finally:
            self.closed.append(number)
            peer.close()

    def _answer(self, args: list[bytes]) -> bytes:
        match args[0]:
            case b"SET":
                self.store[args[1]] = args[2]
                return b"+OK\r\n"
            case b"GET":
                value = self.store.get(args[1])
                return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)
            case b"EXISTS":
                return b":%d\r\n" % (args[1] in self.store)
            case b"DEL":
                return b":%d\r\n" % (self.store.pop(args[1], None) is not None)
            case b"AUTH":
                return b"+OK\r\n"
        return b"-ERR unknown command\r\n"


if __name__ == "__main__":
    server = FakeResp(int(sys.argv[1]), open(sys.argv[2], "w") if len(sys.argv) > 2 else sys.stdout)
    if len(sys.argv) > 3:
        evicted = {"null": b"$-1\r\n", "matched": b"-MISSING_\r\n"}[sys.argv[3]]
        gets = iter(range(1, 1 << 62))
        server.script = lambda _, args: evicted if args[0] == b"GET" and next(gets) == 2 else None
    print(f"fake_resp: 127.0.0.1:{server.port}", flush=True)
    threading.Event().wait()

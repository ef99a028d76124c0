"""What tests of the package share: a real agent that can be killed, stopped and started again, and a server that answers what it is told to.

KVTIER_AGENT is the command that runs the agent, as JSON; without it tests that need one are skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from collections.abc import Callable
from pathlib import Path

from kvtier import wire
from kvtier.client import Client, Namespace

COMMAND: list[str] = json.loads(os.environ.get("KVTIER_AGENT", "[]"))
LAYOUT = "ab" * 16
PATIENCE_SECONDS = 20.0

needs_agent = unittest.skipUnless(COMMAND, "KVTIER_AGENT names no agent to start: run test/e2e/engines/python/run.ts")


def namespace(**fields: str) -> Namespace:
    return Namespace(**{"model": "m", "layout": LAYOUT, **fields})


def until(what: str, probe: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > end:
            raise AssertionError(f"{what} was not seen in {seconds} s")
        time.sleep(0.005)


class Agent:
    """A process of its own on a folder of its own; ``start`` goes on where it was."""

    def __init__(self, *flags: str) -> None:
        self.folder = tempfile.mkdtemp(prefix="kvtier-python-")
        self.socket = str(Path(self.folder) / "agent.sock")
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        return int(json.loads((Path(self.folder) / "agent.json").read_text())["pid"])

    def start(self) -> None:
        flags = ["serve", "--data-dir", self.folder, "--http", "127.0.0.1:0", "--resp", "127.0.0.1:0", "--lm", "off", "--ram", "128MiB"]
        (Path(self.folder) / "agent.json").unlink(missing_ok=True)
        # It refuses variables of its prefix that it does not know.
        env = {name: value for name, value in os.environ.items() if not name.startswith("KVTIER_")}
        log = (Path(self.folder) / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [*COMMAND, *flags, "--ssd", "256MiB", *self._flags], stdout=log, stderr=log, env=env, start_new_session=True
            )
        until("an agent", self._is_ready)

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError((Path(self.folder) / "log").read_text())
        with contextlib.suppress(OSError, ValueError, KeyError):
            return self.pid > 0
        return False

    def kill(self) -> None:
        """Kill -9; returns when it is gone."""
        assert self._process is not None
        os.kill(self.pid, signal.SIGKILL)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @contextlib.contextmanager
    def hung(self):  # noqa: ANN201
        """A process that does not answer and whose socket goes on taking connections."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Fake:
    """An agent that says HELLO as ``hello`` has it and answers each further request with the bytes that ``answer`` gives, or closes on None."""

    def __init__(self, answer: Callable[[int, int, bytes], bytes | None], hello: Callable[[int], bytes] | None = None) -> None:
        self.folder = tempfile.mkdtemp(prefix="kvtier-fake-")
        self.socket = f"{self.folder}/s"
        self._answer = answer
        self._hello = hello or good_hello
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.socket)
        self._server.listen()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connected = self._server.accept()[0]
                self._open.append(connected)
                threading.Thread(target=self._serve, args=(connected,), daemon=True).start()

    def _serve(self, connected: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connected, connected.makefile("rb") as stream:
            while True:
                head = stream.read(wire.HEADER.size)
                if len(head) < wire.HEADER.size:
                    return
                size, op, _, tag = wire.HEADER.unpack(head)
                body = stream.read(size)
                reply = self._hello(tag) if op == wire.HELLO else self._answer(op, tag, body)
                if reply is None:
                    return
                connected.sendall(reply)
                if op == wire.ATTACH:
                    # The byte with which the descriptor comes.
                    stream.read(1)

    def close(self) -> None:
        self._server.close()
        for connected in self._open:
            connected.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def good_hello(tag: int, *, max_keys: int = 4096) -> bytes:
    import struct

    body = struct.pack("<IQIIIIQ", wire.VERSION, 7, 10_000, max_keys, 1 << 22, 64, 1 << 26) + wire.text("fake 1")
    return wire.frame(wire.HELLO, tag, body)


def refusal(op: int, tag: int, status: int, message: str) -> bytes:
    body = wire.text(message)
    return wire.HEADER.pack(len(body), op, status, tag) + body


class AgentCase(unittest.TestCase):
    """A case with an agent and clients of it; all of them end with the test."""

    flags: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.agent = Agent(*self.flags)
        self.addCleanup(self.agent.close)

    def client(self, path: str | None = None) -> Client:
        made = Client(path or self.agent.socket)
        self.addCleanup(made.close)
        return made

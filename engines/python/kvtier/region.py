"""Memory that is shared with the agent: a sealed memfd, so that neither side can be hurt by the other's truncating it."""

from __future__ import annotations

import fcntl
import mmap
import os

F_ADD_SEALS = 1033
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW = 1, 2, 4


class Region:
    """``view`` is all of it, writable, until ``close``. Give it to one client only; it is attached when first used, and again after a restart
    of the agent."""

    def __init__(self, size: int) -> None:
        self.fd = os.memfd_create("kvtier-region", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, size)
            fcntl.fcntl(self.fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
            self.memory = mmap.mmap(self.fd, size)
        except OSError:
            os.close(self.fd)
            raise
        self.size = size
        self.view = memoryview(self.memory)

    def close(self) -> None:
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        self.view.release()
        try:
            self.memory.close()
        except BufferError:
            # Somebody still looks at it (a tensor); the mapping goes with the last of them.
            pass

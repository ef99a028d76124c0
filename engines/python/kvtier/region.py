"""Memory that is shared with the agent: a sealed memfd, so that neither side can be hurt by the other's truncating it."""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
import stat

F_ADD_SEALS = 1033
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW = 1, 2, 4

#: Regions are told apart by a number that is never used again, as ids of Python are.
_numbers = itertools.count(1)


def next_number() -> int:
    return next(_numbers)


class Region:
    """``view`` is all of it, writable, until ``close``. Give it to one client only; it is attached when first used, and again after a restart
    of the agent."""

    def __init__(self, size: int) -> None:
        self.number = next_number()
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


class FileRegion:
    """Memory of somebody else's, a file on tmpfs that is open or has a path: ``source`` is either. Nothing is mapped here; the agent is given a
    descriptor, so that it needs neither the path nor the folder. OSError where it cannot be opened, ValueError where it is no file."""

    def __init__(self, source: int | str) -> None:
        self.number = next_number()
        self.fd = os.dup(source) if isinstance(source, int) else os.open(source, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self.fd)
            raise ValueError(f"{source} is no regular file")
        self.size = status.st_size
        self.identity = (status.st_dev, status.st_ino)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

"""The real C++ client of LMCache, told over stdin what to do, one word a line; answers one line of JSON each.

`put` stores eight values, `check` asks for them and reads them: {"exists": n, "right": n, "error": text}.
"""

import json
import os
import select
import sys
import time

os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")
os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")
import torch  # noqa: E402, F401  (lmcache_redis links libtorch)
from lmcache.lmcache_redis import LMCacheRedisClient  # noqa: E402

SIZE = 262144
KEYS = [f"m@000000ff@0@{i:016x}" for i in range(8)]
VALUES = [bytearray(bytes([i + 1]) * SIZE) for i in range(8)]
client = LMCacheRedisClient("127.0.0.1", int(sys.argv[1]), int(sys.argv[2]))


def wait(future, seconds=20.0):
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([client.event_fd()], [], [], left)[0]:
            for done, ok, error, bools in client.drain_completions():
                if done == future:
                    return ok, error, bools
    return False, "never completes", None


for line in sys.stdin:
    if line.strip() == "put":
        ok, error, _ = wait(client.submit_batch_set(KEYS, [memoryview(value) for value in VALUES]))
        print(json.dumps({"ok": ok, "error": error}), flush=True)
        continue
    _, error, found = wait(client.submit_batch_exists(KEYS))
    buffers = [bytearray(SIZE) for _ in KEYS]
    wait(client.submit_batch_get(KEYS, [memoryview(buffer) for buffer in buffers]))
    right = sum(a == b for a, b in zip(buffers, VALUES))
    print(json.dumps({"exists": sum(found or []), "right": right, "error": error}), flush=True)
os._exit(0)

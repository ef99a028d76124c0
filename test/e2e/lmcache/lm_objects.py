"""Stores and loads objects through LMCache's own lm:// connector: RemoteBackend, as an engine has it, on `remote_url: lm://…`.

    lm_objects.py store PORT   stores objects of every format, dtype and number of dimensions, and loads them again
    lm_objects.py load PORT    loads them in a process of its own and compares bytes, format, dtype and shape

Contents follow from the names, so that a later process knows what to expect. Run it with the environment of setup.sh. Prints a line
for each object that is not as stored, and last `lm_objects: N stored|loaded`; exit code 1 where something was wrong.
"""

import asyncio
import hashlib
import os
import sys
import tempfile
import threading

os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")
os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")
import torch  # noqa: E402
from lmcache.utils import CacheEngineKey, LayerCacheEngineKey  # noqa: E402
from lmcache.v1.config import LMCacheEngineConfig  # noqa: E402
from lmcache.v1.memory_management import MemoryFormat  # noqa: E402
from lmcache.v1.metadata import LMCacheMetadata  # noqa: E402
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend  # noqa: E402
from lmcache.v1.storage_backend.remote_backend import RemoteBackend  # noqa: E402

MODEL = "e2e/lm-objects"
#: name, format, dtype, shape: 4 dimensions and fewer, every dtype that the protocol has a number for, small ones and one of 8 MiB
OBJECTS = [
    ("chunk", MemoryFormat.KV_2LTD, torch.bfloat16, (2, 4, 256, 256)),
    ("tail chunk", MemoryFormat.KV_2LTD, torch.bfloat16, (2, 4, 17, 256)),
    ("large chunk", MemoryFormat.KV_2LTD, torch.float16, (2, 16, 256, 512)),
    ("half", MemoryFormat.KV_2LTD, torch.half, (2, 2, 16, 64)),
    ("float", MemoryFormat.KV_2LTD, torch.float32, (2, 2, 16, 64)),
    ("double", MemoryFormat.KV_2LTD, torch.float64, (2, 2, 16, 64)),
    ("e4m3", MemoryFormat.KV_2LTD, torch.float8_e4m3fn, (2, 2, 16, 64)),
    ("e5m2", MemoryFormat.KV_2LTD, torch.float8_e5m2, (2, 2, 16, 64)),
    ("mla", MemoryFormat.KV_MLA_FMT, torch.bfloat16, (1, 4, 64, 576)),
    ("layer", MemoryFormat.KV_T2D, torch.bfloat16, (64, 2, 128)),
    ("layer by halves", MemoryFormat.KV_2TD, torch.bfloat16, (2, 64, 128)),
    ("encoder", MemoryFormat.EC_TD, torch.bfloat16, (64, 128)),
    ("hidden", MemoryFormat.HS_TD, torch.float32, (1, 128)),
    ("one", MemoryFormat.KV_2LTD, torch.uint8, (1, 1, 1, 1)),
]


def key_of(index: int, name: str):
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big")
    # Python's builtin hashes have signs.
    chunk_hash = -digest if index % 3 == 2 else digest
    if name.startswith("layer"):
        return LayerCacheEngineKey(MODEL, 2, 1, chunk_hash, torch.bfloat16, None, index)
    tags = {"lmcache.tag.who": f"ann {index}"} if index % 4 == 3 else None
    return CacheEngineKey(MODEL, 2, 1, chunk_hash, torch.bfloat16, tags)


def content(name: str, size: int) -> bytes:
    block = hashlib.shake_256(name.encode()).digest(min(size, 65536))
    return (block * (size // len(block) + 1))[:size]


def backend(port: int) -> RemoteBackend:
    """From a configuration file, as an engine reads it."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(f"chunk_size: 256\nlocal_cpu: false\nmax_local_cpu_size: 0.25\nremote_url: 'lm://127.0.0.1:{port}'\nremote_serde: naive\n")
        file.flush()
        config = LMCacheEngineConfig.from_file(file.name)
    metadata = LMCacheMetadata(MODEL, 2, 2, 1, 1, torch.bfloat16, (4, 2, 256, 2, 128))
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    cpu = LocalCPUBackend(config, metadata, "cpu")
    remote = RemoteBackend(config, metadata, loop, cpu, "cpu")
    if remote.connection is None:
        sys.exit(f"Cannot connect to lm://127.0.0.1:{port}")
    return remote


def store(remote: RemoteBackend) -> int:
    wrong = 0
    for index, (name, fmt, dtype, shape) in enumerate(OBJECTS):
        key = key_of(index, name)
        if remote.contains(key):
            wrong += 1
            print(f"WRONG {name}: there before it was stored")
        if remote.get_blocking(key) is not None:
            wrong += 1
            print(f"WRONG {name}: read before it was stored")
        memory = remote.local_cpu_backend.allocate(torch.Size(shape), dtype, fmt)
        view = memoryview(memory.byte_array).cast("B")
        view[:] = content(name, len(view))
        remote.submit_put_task(key, memory).result(30)
    if remote.put_failed_count != 0:
        wrong += 1
        print(f"WRONG: {remote.put_failed_count} puts failed")
    return wrong


def load(remote: RemoteBackend) -> int:
    wrong = 0
    for index, (name, fmt, dtype, shape) in enumerate(OBJECTS):
        key = key_of(index, name)
        if not remote.contains(key):
            wrong += 1
            print(f"WRONG {name}: not there")
            continue
        memory = remote.get_blocking(key)
        if memory is None:
            wrong += 1
            print(f"WRONG {name}: a miss after a lookup that said yes")
            continue
        found = (memory.get_memory_format(), memory.get_dtype(), tuple(memory.get_shape()))
        if found != (fmt, dtype, shape):
            wrong += 1
            print(f"WRONG {name}: {found}, want {(fmt, dtype, shape)}")
        view = memoryview(memory.byte_array).cast("B")
        if bytes(view) != content(name, len(view)):
            wrong += 1
            print(f"WRONG {name}: other bytes")
        memory.ref_count_down()
    absent = key_of(1000, "never stored")
    if remote.contains(absent) or remote.get_blocking(absent) is not None:
        wrong += 1
        print("WRONG: what was never stored is there")
    return wrong


def main() -> None:
    mode, port = sys.argv[1], int(sys.argv[2])
    remote = backend(port)
    wrong = store(remote) + load(remote) if mode == "store" else load(remote)
    print(f"lm_objects: {len(OBJECTS)} {'stored' if mode == 'store' else 'loaded'}, {wrong} wrong", flush=True)
    os._exit(0 if wrong == 0 else 1)


main()

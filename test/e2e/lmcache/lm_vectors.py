"""Prints the frames of lm:// that the installed LMCache writes, as JSON: test/fixtures/lm-frames.json is this program's output.

    python test/e2e/lmcache/lm_vectors.py > test/fixtures/lm-frames.json

Each case has what was asked for and the bytes in hexadecimal. The end-to-end lane compares the committed file with what the
installed release writes now.
"""

import json
import sys

import torch

import lmcache
from lmcache.utils import CacheEngineKey, LayerCacheEngineKey, parse_cache_key
from lmcache.v1.memory_management import MemoryFormat
from lmcache.v1.protocol import (
    DTYPE_TO_INT,
    ClientCommand,
    ClientMetaMessage,
    ServerMetaMessage,
    ServerReturnCode,
)

HASH = 0x1F2E3D4C5B6A79881122334455667788


def key(model="meta-llama/Llama-3.1-8B-Instruct", chunk_hash=HASH, dtype=torch.bfloat16, **more):
    return CacheEngineKey(model, 1, 0, chunk_hash, dtype, **more)


def request(name, command, which, length=0, fmt=1, dtype=torch.float16, shape=(0, 0, 0, 0), location=None):
    text = which.to_string()
    message = ClientMetaMessage(command, which, length, MemoryFormat(fmt), dtype, torch.Size(shape), location)
    return {
        "name": name,
        "command": int(command),
        "length": length,
        "fmt": fmt,
        "dtype": DTYPE_TO_INT[dtype],
        "shape": (list(shape) + [0, 0, 0, 0])[:4],
        "location": {None: 0, "LocalCPUBackend": 1, "LocalDiskBackend": 2}[location],
        "key": text,
        "hex": message.serialize().hex(),
    }


def reply(name, code, length=0, fmt=1, dtype=torch.float16, shape=(0, 0, 0, 0)):
    message = ServerMetaMessage(code, length, MemoryFormat(fmt), dtype, torch.Size(shape))
    return {
        "name": name,
        "code": int(code),
        "length": length,
        "fmt": fmt,
        "dtype": DTYPE_TO_INT[dtype],
        "shape": (list(shape) + [0, 0, 0, 0])[:4],
        "hex": message.serialize().hex(),
    }


def requests():
    put, get, exist = ClientCommand.PUT, ClientCommand.GET, ClientCommand.EXIST
    yield request("put of 32 MiB", put, key(), 33554432, 1, torch.bfloat16, (2, 32, 256, 1024))
    yield request("put of a layer", put, LayerCacheEngineKey("m", 8, 7, -HASH, torch.float8_e5m2, None, 31), 4096, 3, torch.uint8, (2, 256, 8))
    yield request("put of a blob", put, key("m"), 1234567, 4, torch.uint8, (1234567, 0, 0, 0))
    yield request("put with a location", put, key("m"), 1, 6, torch.float32, (1, 2, 3, 4), "LocalDiskBackend")
    yield request("put of the longest length", put, key("m"), 2**31 - 1, 2, torch.float64, (2**31 - 1, 2, 1))
    yield request("put without a dtype", put, key("m"), 8, 5, None, (8,))
    yield request("get", get, key())
    yield request("exist", exist, key())
    yield request("exist with tags", exist, key("m", request_configs={"lmcache.tag.user": "ann", "lmcache.tag.b": "x y"}))
    yield request("list", ClientCommand.LIST, key("m"))
    yield request("health", ClientCommand.HEALTH, key("m"))
    longest = 150 - len(key("").to_string())
    yield request("exist with the longest key", exist, key("a" * longest))
    yield request("exist with a key that is cut inside a letter", exist, key("\u00e9" * longest))
    yield request("exist with a key of other letters", exist, key("mod\u00e8le/\u9375\U0001f511"))


def replies():
    ok, fail = ServerReturnCode.SUCCESS, ServerReturnCode.FAIL
    yield reply("hit of 32 MiB", ok, 33554432, 1, torch.bfloat16, (2, 32, 256, 1024))
    yield reply("hit of a layer", ok, 4096, 3, torch.uint8, (2, 256, 8))
    yield reply("hit without a dtype", ok, 8, 5, None, (8,))
    yield reply("yes", ok)
    yield reply("no", fail)


def refusals():
    """What the client itself refuses to send."""
    for name, which in [("a key of 151 letters", key("a" * (151 - len(key("").to_string()))))]:
        try:
            request(name, ClientCommand.EXIST, which)
            yield {"name": name, "error": None}
        except AssertionError as problem:
            yield {"name": name, "error": str(problem)}


def main():
    vectors = {
        "lmcache": lmcache.__version__,
        "requestBytes": ClientMetaMessage.packlength(),
        "replyBytes": ServerMetaMessage.packlength(),
        "requests": list(requests()),
        "replies": list(replies()),
        "refusals": list(refusals()),
    }
    for case in vectors["requests"]:
        # What its own server makes of the key.
        try:
            read = ClientMetaMessage.deserialize(bytes.fromhex(case["hex"]))
            case["keyRead"] = read.key.to_string()
        except Exception as problem:
            case["keyRead"] = None
            case["problem"] = type(problem).__name__
    assert parse_cache_key(key("m").to_string()) == key("m")
    json.dump(vectors, sys.stdout, indent=1, ensure_ascii=True)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()

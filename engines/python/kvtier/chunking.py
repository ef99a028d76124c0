"""Chunks of a prompt and their names: a chained hash over tokens, so that equal prefixes have equal keys in every process.

Engines' own block hashes depend on seeds, releases and hash functions; ours depend on nothing but what they are given.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from typing import Any

#: Digits of a key; 128 bits, so that no two prefixes of a fleet's life meet.
KEY_DIGITS = 32


def root_of(*, adapter: str = "", salt: str = "", extra: str = "") -> bytes:
    """What a chain begins with: all that makes equal tokens different KV besides the model and its layout.

    ``adapter`` names a LoRA, ``salt`` is the request's cache_salt (kept in the hash, so that prompts of two salts share nothing),
    ``extra`` is whatever an engine has beyond these.
    """
    facts = json.dumps([adapter, salt, extra], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(b"kvtier-root-1\0" + facts.encode()).digest()


class Chain:
    """The keys of a growing sequence of tokens, one for each whole chunk.

    ``media`` gives what stands for images and the like: (first token, end, identifier). A chunk that overlaps one has its identifier in
    the hash, since its tokens are placeholders.
    """

    def __init__(self, chunk_tokens: int, root: bytes, media: Sequence[tuple[int, int, str]] = ()) -> None:
        if chunk_tokens <= 0:
            raise ValueError(f"a chunk has at least one token, not {chunk_tokens}")
        self._chunk_tokens = chunk_tokens
        self._state = root
        self._media = tuple(media)
        self.keys: list[str] = []

    def extend(self, tokens: Sequence[int], limit: int | None = None) -> list[str]:
        """Hashes the whole chunks of ``tokens[:limit]`` that are not hashed yet. Earlier tokens must be what they were."""
        end = len(tokens) if limit is None else min(limit, len(tokens))
        size = self._chunk_tokens
        for start in range(len(self.keys) * size, end - size + 1, size):
            piece = tokens[start : start + size]
            block = struct.pack(f"<{size}I", *piece)
            marks = [f"{first - start}:{name}" for first, last, name in self._media if first < start + size and last > start]
            digest = hashlib.sha256(self._state + block + "\0".join(marks).encode())
            self._state = digest.digest()
            self.keys.append(self._state.hex()[:KEY_DIGITS])
        return self.keys


def fingerprint(facts: dict[str, Any]) -> str:
    """32 hex digits over all that makes KV bytes readable by one engine build and not by another. Facts must be plain JSON values."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def model_name(name: str, revision: str | None = None, weights: str | None = None) -> str:
    """A name that a key can hold. ``weights`` is the version of weights that change under one name, as in reinforcement learning."""
    parts = [name, *(part for part in (revision, weights) if part)]
    return "#".join(parts).replace("@", "_")


def whole_chunks(tokens: int, chunk_tokens: int) -> int:
    """Chunks of a prompt that may be loaded: at least one token is left to be computed, or there would be nothing to sample from."""
    return max(0, (tokens - 1) // chunk_tokens)


def blocks_of(chunk: int, blocks_per_chunk: int, block_ids: Sequence[int]) -> list[int] | None:
    """The engine's blocks that hold a chunk; None where not all of them are known."""
    ids = list(block_ids[chunk * blocks_per_chunk : (chunk + 1) * blocks_per_chunk])
    return ids if len(ids) == blocks_per_chunk else None

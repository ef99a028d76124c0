"""Keys of chunks: what they depend on, and what not."""

from __future__ import annotations

import subprocess
import sys
import unittest

from kvtier.chunking import Chain, blocks_of, fingerprint, model_name, root_of, whole_chunks

TOKENS = list(range(1000, 1100))


def keys(tokens: list[int] = TOKENS, size: int = 16, media: tuple[tuple[int, int, str], ...] = (), **root: str) -> list[str]:
    return Chain(size, root_of(**root), media).extend(tokens)


class TestChain(unittest.TestCase):
    def test_another_process_has_the_same(self) -> None:
        code = "from kvtier.chunking import *; print(Chain(16, root_of(salt='s')).extend(list(range(1000, 1100))))"
        for seed in ("1", "2"):
            run = subprocess.run([sys.executable, "-B", "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, check=True)
            self.assertEqual(run.stdout.strip(), str(keys(salt="s")))

    def test_only_whole_chunks(self) -> None:
        self.assertEqual(len(keys(TOKENS[:15])), 0)
        self.assertEqual(len(keys(TOKENS[:16])), 1)
        self.assertEqual(len(keys()), 6)

    def test_growing_gives_the_same(self) -> None:
        chain = Chain(16, root_of())
        for end in range(0, 101, 7):
            chain.extend(TOKENS, end)
        self.assertEqual(chain.extend(TOKENS), keys())

    def test_equal_prefixes_have_equal_keys_up_to_where_they_part(self) -> None:
        other = [*TOKENS[:40], 7, *TOKENS[41:]]
        same = [a == b for a, b in zip(keys(), keys(other), strict=True)]
        self.assertEqual(same, [True, True, False, False, False, False])

    def test_salt_adapter_and_extra_share_nothing(self) -> None:
        seen = [keys(), keys(salt="a"), keys(salt="b"), keys(adapter="a"), keys(extra="a")]
        self.assertEqual(len({key for some in seen for key in some}), sum(map(len, seen)))

    def test_media_are_in_the_hash_from_where_they_are(self) -> None:
        one, two = keys(media=((20, 40, "cat"),)), keys(media=((20, 40, "dog"),))
        self.assertEqual(one[0], two[0])
        self.assertEqual(one[0], keys()[0])
        self.assertTrue(all(a != b for a, b in zip(one[1:], two[1:], strict=True)))
        moved = keys(media=((21, 41, "cat"),))
        self.assertNotEqual(one[1], moved[1])

    def test_a_chunk_that_a_picture_only_touches_is_free_of_it(self) -> None:
        self.assertEqual(keys(media=((16, 32, "cat"),))[0], keys()[0])
        self.assertNotEqual(keys(media=((15, 32, "cat"),))[0], keys()[0])


class TestSmall(unittest.TestCase):
    def test_one_token_is_left_to_compute(self) -> None:
        self.assertEqual([whole_chunks(tokens, 16) for tokens in (0, 1, 16, 17, 32, 33)], [0, 0, 0, 1, 1, 2])

    def test_blocks(self) -> None:
        self.assertEqual(blocks_of(1, 2, [5, 6, 7, 8]), [7, 8])
        self.assertIsNone(blocks_of(1, 2, [5, 6, 7]))

    def test_fingerprint_does_not_depend_on_order(self) -> None:
        self.assertEqual(fingerprint({"a": 1, "b": 2}), fingerprint({"b": 2, "a": 1}))
        self.assertNotEqual(fingerprint({"a": 1}), fingerprint({"a": 2}))

    def test_model_name(self) -> None:
        self.assertEqual(model_name("a/b@c", "r1", "w2"), "a/b_c#r1#w2")


if __name__ == "__main__":
    unittest.main()

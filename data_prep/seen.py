"""Which texts were there before, in 16 bytes a text."""

import hashlib


class Seen:
    """A set of texts that holds their digests only.

    Digests lie one after another in 65,536 byte strings, chosen by their first two bytes: a Python set
    would take 100 bytes a text. Two texts that differ are taken for one with probability 2**-64 for
    four billion texts.
    """

    def __init__(self):
        self._buckets = [bytearray() for _ in range(1 << 16)]

    def add(self, text):
        """Adds bytes; returns whether they are new."""
        digest = hashlib.sha256(text).digest()
        bucket, digest = self._buckets[int.from_bytes(digest[:2], "big")], digest[2:16]
        if digest in bucket:
            return False
        bucket += digest
        return True

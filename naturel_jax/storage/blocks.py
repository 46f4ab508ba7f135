"""Checksums of files, block by block: a large file is read by several threads, and by processes in parts."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import xxhash

BLOCK = 1 << 24  # 16 MiB under one checksum
_CHUNK = 1 << 18  # bytes read at a time: few enough to stay in a core's cache until they are hashed
_THREADS = 8


class Block(NamedTuple):
    """``length`` bytes of a file from ``start`` on, or what there is of them."""

    path: os.PathLike[str]
    start: int
    length: int

    def checksum(self) -> str:
        """The XXH3 of the bytes, in hexadecimal."""
        checksum = xxhash.xxh3_64()
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.start)
            for _ in range(self.length // _CHUNK):
                if not (data := file.read(_CHUNK)):
                    break
                checksum.update(data)
        return checksum.hexdigest()


def of_file(path: os.PathLike[str], size: int) -> list[Block]:
    """The blocks of a file of ``size`` bytes."""
    return [Block(path, start, BLOCK) for start in range(0, size, BLOCK)]


def checksums(blocks: Sequence[Block]) -> list[str]:
    """The checksum of each block. Raises OSError for a file that cannot be read."""
    if len(blocks) < 2:
        return [block.checksum() for block in blocks]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(Block.checksum, blocks))

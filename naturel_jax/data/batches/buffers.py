"""Reuses the memory of earlier batches: the kernel clears every page that a process gets, 38 MB for 256 images."""

import math
import mmap
import weakref
from collections.abc import Sequence

import numpy as np


class Buffers:
    """Hands out arrays, each in memory that nothing refers to any more. Thread-safe; a pickled one starts empty."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def __reduce__(self) -> tuple[type["Buffers"], tuple[()]]:
        return Buffers, ()

    def array(self, shape: Sequence[int]) -> np.ndarray:
        """An uninitialized uint8 array. Its memory is reused once it and all views of it are gone, among them any
        jax.Array made from it on a CPU."""
        size = math.prod(shape)
        memory = self._pop(size)
        array = np.frombuffer(memory, np.uint8, size)  # views refer to this array, not to the memory
        weakref.finalize(array, self._free.append, memory).atexit = False
        return array.reshape(shape)

    def _pop(self, size: int) -> mmap.mmap:
        try:
            memory = self._free.pop()
        except IndexError:
            memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):  # Linux; the first use then takes half the time
                memory.madvise(mmap.MADV_HUGEPAGE)
            return memory
        return memory if len(memory) >= size else self._pop(size)  # a smaller one is dropped

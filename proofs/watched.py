"""naturel_jax.main, which writes how much memory it has allocated.

    WATCHED=memory.txt PYTHONMALLOC=malloc python -m proofs.watched --config ...

adds a line every second to the file: bytes that malloc has given out and not got back, in all of its arenas, Python's
objects included. The memory that a process has from the kernel is more, and rises and falls with what malloc keeps.
TensorStore is kept from leaking in each save (``save_memory.py`` measures how much it does).
"""

import ctypes
import os
import runpy
import threading
import time
from pathlib import Path

from proofs import save_memory

_FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class _Mallinfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc; see mallinfo(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS.split()]


def allocated() -> int:
    """Bytes that are allocated."""
    mallinfo2 = ctypes.CDLL("libc.so.6").mallinfo2
    mallinfo2.restype = _Mallinfo
    info = mallinfo2()
    return info.uordblks + info.hblkhd


def _watch(file: Path) -> None:
    with file.open("a", buffering=1) as lines:
        while True:
            lines.write(f"{allocated()}\n")
            time.sleep(1)


if __name__ == "__main__":
    threading.Thread(target=_watch, args=(Path(os.environ["WATCHED"]),), daemon=True).start()
    with save_memory.nothing_lost():
        runpy.run_module("naturel_jax.main", run_name="__main__", alter_sys=True)

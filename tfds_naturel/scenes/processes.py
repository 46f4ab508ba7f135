"""Draws a split in several processes: threads would wait for one another, since most of drawing is Python.

They are not those of ``multiprocessing``, which would import the main module of whoever trains: a script without
``if __name__ == "__main__"`` would run again.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from tfds_naturel.scenes.examples import example, exchanged, image_id
from tfds_naturel.scenes.scene import ScenesConfig

_IMAGES = 2_000  # that a process is started for: starting takes as long as drawing several hundred
_PROCESSES = 16  # at most: who receives the examples encodes them, and keeps up with no more


def examples(config: ScenesConfig, split: str, size: int) -> Iterator[dict[str, Any]]:
    """The examples of ``split`` with an index below ``size``. Raises RuntimeError if a process ends early."""
    found = exchanged(config, split)
    exchanges = [found.get(image_id(config, split, index), ()) for index in range(size)]
    number = min(os.cpu_count() or 1, size // _IMAGES, _PROCESSES)
    if number < 2:
        yield from (example(config, split, index, exchanges[index]) for index in range(size))
        return
    command = [sys.executable, "-m", __name__]
    with contextlib.ExitStack() as stack:
        workers = []
        for first in range(number):
            worker = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            stack.callback(worker.kill)
            assert worker.stdin and worker.stdout
            with contextlib.suppress(BrokenPipeError), worker.stdin as work:  # one that has ended sends nothing
                pickle.dump((config, split, range(first, size, number), exchanges[first::number]), work)
            workers.append(worker.stdout)
        for index in range(size):
            try:
                yield pickle.load(workers[index % number])
            except EOFError as error:
                raise RuntimeError(f"the process that draws image {index} of {split} ended; see its error") from error


def _work() -> None:
    """Draws the examples that stdin names, in order, to stdout."""
    for number in (signal.SIGINT, signal.SIGTERM):  # reach all; whoever reads the examples ends this process
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as their end does
    config, split, numbers, exchanges = pickle.load(sys.stdin.buffer)
    for index, found in zip(numbers, exchanges, strict=True):
        pickle.dump(example(config, split, index, found), sys.stdout.buffer)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    _work()

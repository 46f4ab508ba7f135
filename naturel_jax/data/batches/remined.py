"""Hard images that are mined again from checkpoints of the run that trains on them, by naturel-mine beside it.

Training does not wait for what is mined from the newest checkpoint: it uses that of the one before for so long. Which
file a step uses depends on its number only, so a run that continues uses the same.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from etils import epath

from naturel_jax import storage
from naturel_jax.data.items.ragged import Ragged
from naturel_jax.devices import preemption

_LOG = logging.getLogger(__name__)

FOLDER = "hard_images"

_POLL_S = 2.0


class Remined(NamedTuple):
    """A part of the mixture, its number and name, whose hard images are mined again after each ``every`` steps.
    ``read``: reads a file of them."""

    number: int
    name: str
    every: int
    read: Callable[[epath.PathLike], Ragged]


def file(workdir: epath.PathLike, part: str, step: int) -> epath.Path:
    """What was mined for ``config.data.mixture.<part>`` from the checkpoint of ``step``."""
    return epath.Path(workdir) / FOLDER / part / f"{step}.parquet"


def is_mined(path: epath.Path) -> bool:
    """Whether ``path`` is there, and its description, which is written last."""
    return storage.exists(path) and storage.exists(path.with_name(f"{path.name}.json"))


def mined_at(step: int, every: int) -> int:
    """The checkpoint from which the hard images of batch ``step`` were mined: the last but one multiple of ``every``.
    0: what the run begins with, ``config.data.mixture.<part>.hard_images``."""
    return max(step // every - 1, 0) * every


def stretches(start: int, stop: int, parts: Sequence[Remined]) -> Iterator[range]:
    """The steps from ``start`` to ``stop - 1``, cut where one of ``parts`` goes on with another file."""
    changes = {step for _, _, n, _ in parts for step in range(max(start // n + 1, 2) * n, stop, n)}
    ends = [*sorted(changes), stop]
    return map(range, [start, *ends[:-1]], ends)


def read(parts: Sequence[Remined], step: int, workdir: epath.PathLike) -> dict[int, Ragged]:
    """The hard images of batch ``step`` by number of the part, without those that the run begins with. Waits for files
    that are not there yet. All processes have to call it; raises Stopped if they should stop."""
    mined = {}
    for number, name, every, read_file in parts:
        if at := mined_at(step, every):
            assert workdir, "hard images that are mined again are in a workdir"
            _wait_for(path := file(workdir, name, at))
            mined[number] = read_file(path)
    return mined


def _wait_for(path: epath.Path) -> None:
    def wait() -> None:
        if not is_mined(path):
            _LOG.info("waiting for %s, which naturel-mine --watch %s writes", path, path.parents[2])
        while not is_mined(path):
            preemption.check()
            time.sleep(_POLL_S)

    preemption.on_first_process(wait)

"""What reading a bomb costs, measured in a process of its own, and what it may cost."""

import multiprocessing
import os
import random
import resource
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from tests.helpers.bombs import BOMBS
from tests.helpers.readers import READERS
from tfds_naturel.common.errors import UserError

BASE_BYTES, PER_BYTE = 64 << 20, 40  # memory that reading a file may take, and for each of its bytes
BASE_SECONDS, SECONDS_PER_MB = 2, 1  # time of the processor
_MOST_MEMORY, _MOST_SECONDS = 4 << 30, 60  # where a reader is stopped


class Cost(NamedTuple):
    """What reading took: bytes of memory beyond those before it, and seconds of the processor, children included;
    ``outcome``: "read", "refused", or what went wrong."""

    memory: int
    seconds: float
    outcome: str

    def over(self, size: int) -> str:
        """What is wrong with this cost of a file of ``size`` bytes; empty if nothing is."""
        found = [] if self.outcome in ("read", "refused") else [self.outcome]
        if self.memory > BASE_BYTES + PER_BYTE * size:
            found.append(f"{self.memory >> 20:,} MB")
        if self.seconds > BASE_SECONDS + SECONDS_PER_MB * size / 1e6:
            found.append(f"{self.seconds:.1f} s")
        return ", ".join(found)


def cost_of(name: str, number: int, folder: Path) -> tuple[Cost, int, str]:
    """Cost of a bomb of the reader's kind, its size, and its name. The first numbers are the bombs in place of the
    first file, the next ones in place of the second, and so on; what a bomb draws depends on its number."""
    sound, hostile = folder / "sound", folder / "hostile"
    if not sound.exists():
        sound.mkdir()
        READERS[name].write(sound)
    shutil.rmtree(hostile, ignore_errors=True)
    hostile.mkdir()
    bombs, files = BOMBS[READERS[name].kind], READERS[name].write(hostile)
    bomb, path = bombs[number % len(bombs)], files[number // len(bombs) % len(files)]
    path.write_bytes(bomb(random.Random(number), path.read_bytes()))
    return measure(name, sound, hostile), path.stat().st_size, f"{path.name}: {bomb.__name__}"


def measure(name: str, sound: Path, hostile: Path) -> Cost:
    """The cost of the reader ``name`` for the files in ``hostile``, in a process of its own that has read ``sound``."""
    context = multiprocessing.get_context("forkserver")  # a fork of a process without threads
    context.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe(False)
    process = context.Process(target=_measure, args=(name, sound, hostile, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(_MOST_SECONDS * 5) else Cost(0, 0, "does not end")
    except EOFError:
        process.join()
        return Cost(0, 0, f"process ends with {process.exitcode}")
    finally:
        process.kill()
        process.join()


def _measure(name: str, sound: Path, hostile: Path, answer: Any) -> None:
    reader = READERS[name]
    reader.read(sound)  # imports what it needs
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins now
    resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + _MOST_MEMORY, -1))
    began = _seconds()
    resource.setrlimit(resource.RLIMIT_CPU, (int(began) + _MOST_SECONDS, -1))
    try:
        reader.read(hostile)
        outcome = "read"
    except (UserError, OSError, *reader.allowed) as error:
        outcome = "refused" if "\n" not in str(error) else f"several lines: {str(error)[:80]!r}"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {str(error)[:80]!r}"
    answer.send(Cost(_status("VmHWM") - before, _seconds() - began, outcome))


def _status(field: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) << 10


def _seconds() -> float:
    return sum(os.times()[:4])

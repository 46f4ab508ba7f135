"""Runs a reader on mutated files: it returns, or raises an error of ours in one line; nothing else, and soon."""

import contextlib
import random
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from mutations import mutate

from tfds_naturel.errors import UserError

SECONDS = 20  # for one input
COUNTS = [pytest.param(200, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.proof)]
every_count = pytest.mark.parametrize("count", COUNTS)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def late(*_: object) -> None:
        raise AssertionError(f"takes more than {SECONDS} seconds")

    previous = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def fuzz(
    files: Sequence[Path], read: Callable[[], object], count: int, allowed: tuple[type[Exception], ...] = ()
) -> None:
    """Calls ``read`` ``count`` times, each time with one of ``files`` mutated. It may raise UserError, OSError and
    ``allowed``. Input ``n`` is the same in every run."""
    originals = {path: path.read_bytes() for path in files}
    read()  # the files as they are
    failures, refused = {}, 0
    for n in range(count):
        path = files[n % len(files)]
        path.write_bytes(mutate(random.Random(f"{path.name} {n}"), originals[path]))
        try:
            with _limited():
                read()
        except (UserError, OSError, *allowed) as error:
            refused += 1
            if "\n" in str(error).strip():
                failures.setdefault(f"several lines: {type(error).__name__}: {error}"[:200], f"{path.name}, input {n}")
        except BaseException as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = next(
                (
                    f"{Path(f.filename).name}:{f.lineno}"
                    for f in reversed(traceback.extract_tb(error.__traceback__))
                    if "naturel" in f.filename and "tests" not in f.filename
                ),
                f"{frame.filename}:{frame.lineno}",
            )
            failures.setdefault(f"{place}: {type(error).__name__}: {str(error)[:150]}", f"{path.name}, input {n}")
        finally:
            path.write_bytes(originals[path])
    report = "\n".join(f"{where}: {what}" for what, where in failures.items())
    assert not failures, f"{len(failures)} kinds of failures:\n{report}"
    assert refused, "no input was refused: the reader does not read these files"

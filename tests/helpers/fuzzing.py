"""Runs a reader on mutated files: it returns, or raises an error of ours in one line; nothing else, and soon."""

import contextlib
import random
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from naturel_jax import storage
from naturel_jax.storage import state
from tests.helpers.mutations import mutate
from tfds_naturel.common.errors import UserError

SECONDS = {signal.ITIMER_PROF: 20, signal.ITIMER_REAL: 300}  # for one input: of the processor, and of a clock
_SIGNALS = {signal.ITIMER_PROF: signal.SIGPROF, signal.ITIMER_REAL: signal.SIGALRM}
LONGEST = 2000  # characters of a message
COUNTS = [pytest.param(50, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.proof)]
every_count = pytest.mark.parametrize("count", COUNTS)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        raise AssertionError(f"takes too long ({signal.Signals(number).name})")

    previous = {number: signal.signal(number, late) for number in _SIGNALS.values()}
    for timer, seconds in SECONDS.items():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer in SECONDS:
            signal.setitimer(timer, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _open(value: Any) -> dict[str, Any]:
    """``storage.unsealed`` without comparing the checksum."""
    if not isinstance(value, dict):
        raise ValueError("no object")
    return {name: value[name] for name in value if name != state.SEAL}


def _place(error: BaseException) -> str:
    """The innermost line of ours that ``error`` passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/naturel_jax/" in frame.filename or "/tfds_naturel/" in frame.filename]
    frame = (ours or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"


def fuzz(
    files: Sequence[Path],
    read: Callable[[], object],
    count: int,
    allowed: tuple[type[Exception], ...] = (),
    must_refuse: bool = True,
) -> None:
    """Calls ``read`` ``count`` times, each time with one of ``files`` mutated. It may raise UserError, OSError and
    ``allowed``, and must raise one of them at least once unless ``must_refuse`` is False. Input ``n`` is the same in
    every run. No checksum in a file is compared: whoever changes a file can write that of the rest, too."""
    originals = {path: path.read_bytes() for path in files}
    read()  # the files as they are
    failures, refused = {}, 0
    for n in range(count):
        path = files[n % len(files)]
        path.write_bytes(mutate(random.Random(f"{path.name} {n}"), originals[path]))
        try:
            with _limited(), mock.patch.object(state, "unsealed", _open), mock.patch.object(storage, "unsealed", _open):
                read()
        except (UserError, OSError, *allowed) as error:
            refused += 1
            if "\n" in str(error) or (isinstance(error, UserError) and len(str(error)) > LONGEST):
                failures.setdefault(f"long or several lines: {_place(error)}", f"{path.name}, {n}: {error!s:.150}")
        except BaseException as error:
            failures.setdefault(f"{_place(error)}: {type(error).__name__}", f"{path.name}, input {n}: {error!s:.150}")
        finally:
            path.write_bytes(originals[path])
    report = "\n".join(f"{what}: {where!r}" for what, where in failures.items())
    assert not failures, f"{len(failures)} kinds of failures:\n{report}"
    assert refused or not must_refuse, "no input was refused: the reader does not read these files"

"""Exit codes, error messages and logging, shared by all commands.

Exit codes: 0 done; 2 user error, explained in one line; 75 (``EX_TEMPFAIL``) stopped and saved, or an object store
failed for too long: run the same command again to continue; 130 interrupted; 141 it printed more than was read, as
with ``| head``; anything else is a bug and comes with a traceback.
"""

import argparse
import atexit
import contextlib
import io
import logging
import os
import resource
import select
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from tfds_naturel.common import escape
from tfds_naturel.common.errors import Stopped, Unavailable, UserError, shortened

DONE, BUG, USER_ERROR, STOPPED, INTERRUPTED, UNREAD = 0, 1, 2, 75, 130, 141
LEFT_BEHIND = "left behind"  # name of threads whose work nobody waits for any more
_EXIT_HANDLERS_S = 5


class _Formatter(logging.Formatter):
    """Leaves out what controls a terminal: messages quote names from files."""

    def format(self, record: logging.LogRecord) -> str:
        return escape.lines(super().format(record))


def set_up_logging() -> None:
    """Logs this project's messages to stderr at level INFO; other libraries stay at WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in ("naturel_jax", "tfds_naturel"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers = [handler]


def run(main: Callable[[Sequence[str]], int | None], arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs ``main(arguments)`` (default: ``sys.argv[1:]``) and exits with one of the codes above."""
    set_up_logging()
    atexit.register(_drop_unread)
    sys.unraisablehook = _unraisable
    if isinstance(sys.stdout, io.TextIOWrapper):  # not closed, nor replaced by a notebook or test
        sys.stdout.reconfigure(errors="backslashreplace")  # else a name that the terminal has no letters for ends it
    try:
        code = main(sys.argv[1:] if arguments is None else arguments) or DONE
    except Unavailable as error:
        print(f"{command()}: {escape.line(str(error))}", file=sys.stderr)
        leave(STOPPED)
    except (UserError, OSError) as error:  # an OSError names the file and the cause
        if isinstance(error, BrokenPipeError) and _is_unread():
            leave(UNREAD)
        print(f"{command()}: error: {escape.line(shortened(str(error)))}", file=sys.stderr)
        code = USER_ERROR
    except Stopped as stopped:
        print(f"{command()}: {escape.line(str(stopped))}", file=sys.stderr)
        code = STOPPED
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if isinstance(error, ImportError) and "gcsfs" in str(error):  # raised by etils for a gs:// path
            print(f"{command()}: error: {error}: run `pip install gcsfs`", file=sys.stderr)
            code = USER_ERROR
        elif isinstance(error, KeyError) and str(error.args[0]).endswith("://"):  # raised by etils for https://...
            print(f"{command()}: error: a path is at {error.args[0]}, which is not read or written", file=sys.stderr)
            code = USER_ERROR
        elif isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":  # by Arrow for a path
            print(f"{command()}: error: the name {error.object!a:.200} is not UTF-8; rename it", file=sys.stderr)
            code = USER_ERROR
        elif shortage := _out_of_memory(error):
            print(f"{command()}: error: {shortage}", file=sys.stderr)
            code = USER_ERROR
        else:
            traceback.print_exc()
            code = BUG
    if code in (DONE, STOPPED) and all(thread.name != LEFT_BEHIND for thread in threading.enumerate()):
        atexit.register(_end, code)
        sys.exit(code)  # threads are waited for, and a profiler gets to write what it measured
    leave(code)


def _is_unread() -> bool:
    """Whether stdout is a pipe whose reader has ended."""
    stdout = select.poll()
    stdout.register(1, 0)
    return any(event & select.POLLERR for _, event in stdout.poll(0))


def _drop_unread() -> None:
    """Lets what is left in stdout's buffer go nowhere if nobody reads it, for which Python would print an error."""
    if _is_unread():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _unraisable(ignored: "sys.UnraisableHookArgs") -> None:
    """Sends Ctrl-C again that came where Python ignores exceptions: JAX has a callback in the garbage collector."""
    if ignored.exc_type is KeyboardInterrupt:  # a signal, unlike ``interrupt_main``, ends a wait in the main thread
        threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(ignored)


def _out_of_memory(error: Exception) -> str:
    """One line on a failure for want of memory; "" for any other error."""
    text = " ".join(str(error).split())
    words = ("RESOURCE_EXHAUSTED", "std::bad_alloc", "can't start new thread", "annot allocate memory", "failed to map")
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    for_memory = isinstance(error, MemoryError) or (limited and isinstance(error, SystemError))  # of an extension
    if not for_memory and not any(word in text for word in words):
        return ""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"out of memory in {frame.name} ({text[:200] or type(error).__name__}){_consumers()}"


def _consumers() -> str:
    """What uses this process's memory: most of its addresses, and the largest arrays that JAX holds."""
    line = ""
    with contextlib.suppress(Exception):  # little works without memory
        usage = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
        line += f"; this process has {usage['VmRSS'].strip()} in memory and {usage['VmSize'].strip()} of addresses"
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        line += f" (ulimit -v {limit // 1024})" if limit != resource.RLIM_INFINITY else ""
    with contextlib.suppress(Exception):
        spaces = Counter[str]()
        for row in Path("/proc/self/maps").read_text().splitlines():
            span, *_, name = row.split(maxsplit=5) if row.count("/") else (row.split()[0], "allocations")
            first, _, end = span.partition("-")
            spaces[os.path.basename(name)] += int(end, 16) - int(first, 16)
        kind, size = spaces.most_common(1)[0]
        line += f", most of them {kind}: {size / 1e9:.3g} GB"
    with contextlib.suppress(Exception):
        sizes = Counter[str]()
        for array in sys.modules["jax"].live_arrays():
            sizes[f"{array.dtype}{list(array.shape)}"] += array.nbytes
        kind, size = sizes.most_common(1)[0]
        line += f"; JAX's arrays have {sum(sizes.values()) / 1e9:.3g} GB, the largest {kind}: {size / 1e9:.3g} GB"
    return f"{line}; allow more memory, or lower the size of the batch or the number of threads and processes"


def on_disk(text: str) -> Path:
    """The path that a flag names; ``type`` for arguments that cannot be in an object store. Raises
    ``ArgumentTypeError``, to which argparse adds the flag."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not on a disk; expected a path, whose files can be copied")
    return Path(text)


def check_counts(options: argparse.Namespace, *flags: str, most: int = 1 << 24) -> None:
    """Raises UserError for a flag that is not a number from 1 to ``most``: libraries end in a traceback for others."""
    for flag in flags:
        if not 1 <= (value := getattr(options, flag)) <= most:
            raise UserError(f"--{flag} is {value}, expected 1 to {most:,}")


def leave(code: int) -> NoReturn:
    """Ends the process without waiting for library threads, as ``sys.exit`` would: after a failed save, Orbax's threads
    wait 20 minutes for steps that never come. Exit handlers get ``_EXIT_HANDLERS_S`` seconds: JAX's would wait five
    minutes for the other processes of a job, which may not have failed."""
    timer = threading.Timer(_EXIT_HANDLERS_S, os._exit, [code])
    timer.daemon = True
    timer.start()
    _end(code)


def _end(code: int) -> NoReturn:
    """Ends the process after its exit handlers, but without the destructors of its libraries: what these free, threads
    of XLA and TensorStore may still use, and a run that was saved ended with SIGABRT in place of its exit code."""
    atexit.unregister(_end)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream and not stream.closed:
                stream.flush()
        except OSError as error:  # a full disk or a closed pipe
            if code == DONE and stream is sys.stdout:
                print(f"{command()}: error: what it printed is not complete: {error}", file=sys.stderr)
                code = USER_ERROR
    os._exit(code)


def command() -> str:
    """How the user started this process: ``naturel_jax.evaluate`` for ``python -m naturel_jax.evaluate``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else os.path.basename(sys.argv[0])
